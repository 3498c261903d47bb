/* SPDX-License-Identifier: MIT
 *
 * reduction.c - handles on their way: which descriptors travel, and who closes
 * them. What they are is their kind's business.
 */
#include "reduction_internal.h"

#include "error_internal.h"
#include "hooks_internal.h"

int mp__parcel_add(mp__parcel *parcel, const mp__reduced *reduced)
{
    if (parcel->count + reduced->count > MP__FDS_MAX)
        return mp__fail(MP_ETOOLONG,
            "too many handles in one message: at most %d descriptors travel with it", MP__FDS_MAX);
    for (size_t i = 0; i < reduced->count; i++)
        parcel->fds[parcel->count++] = reduced->fds[i];
    return 0;
}

int mp__parcel_own(mp__parcel *parcel)
{
    mp__parcel copies;

    for (copies.count = 0; copies.count < parcel->count; copies.count++) {
        int fd = mp__fd_duplicate(parcel->fds[copies.count]);

        if (fd < 0) {
            mp__parcel_close(&copies);
            return fd;
        }
        copies.fds[copies.count] = fd;
    }
    for (size_t i = 0; i < copies.count; i++)
        parcel->fds[i] = copies.fds[i];
    return 0;
}

void mp__parcel_close(mp__parcel *parcel)
{
    mp__fd_close_all(parcel->fds, parcel->count);
    parcel->count = 0;
}

void mp__parcel_drop(mp__parcel *parcel)
{
    if (!parcel->count)
        return;
    mp__hooks_begin_receiving();
    mp__parcel_close(parcel);
    mp__hooks_end_receiving();
}

static bool is_left_behind(const mp__received *received)
{
    for (size_t i = 0; i < received->count; i++)
        if (received->fds[i] == MP__LEFT_BEHIND)
            return true;
    return false;
}

int mp__received_object(mp__received *received, const mp__kind *kind, void **object)
{
    void *built = NULL;
    int r;

    if (received->code != kind->code)
        return mp__fail(MP_ETYPE, "a handle of another kind arrived, not %s", kind->name);
    if (received->kept)
        return mp__fail(MP_EHANDLE, "%s of this message was taken with keep before", kind->name);
    if (!received->object && is_left_behind(received))
        return mp__fail(MP_EHANDLE,
            "%s of this message stayed with the parent of this process, "
            "which had not taken it yet; pass it as an argument",
            kind->name);
    if (!received->object) {
        r = kind->rebuild(received->state, received->size, received->fds, received->count, &built);
        if (r < 0)
            return r;
        received->object = built;
        received->object->lender = received;
    }
    *object = received->object;
    return 0;
}

void mp__received_done(mp__received *received)
{
    mp__handle *object = received->object;

    received->object = NULL;
    if (object) {
        object->lender = NULL;
        object->kind->free(object);
    }
    if (!received->count)
        return;
    mp__hooks_begin_receiving(); /* no child has a copy of what is just being closed */
    for (size_t i = 0; i < received->count; i++)
        mp__fd_drop(&received->fds[i]);
    mp__hooks_end_receiving();
}

void mp__handle_keep(mp__handle *handle)
{
    if (!handle->lender)
        return;
    handle->lender->object = NULL;
    handle->lender->kept = true;
    handle->lender = NULL;
}
