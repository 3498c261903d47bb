/* SPDX-License-Identifier: MIT
 *
 * shareable_list.c - a list of values in shared memory, as CPython lays it out:
 *
 *     N, the number of items                            8 bytes
 *     where each item begins in the data, and its end   8 (N + 1) bytes
 *     the data: each item has a slot of 8 bytes or more
 *     the format of each item, with NULs behind it      8 N bytes
 *     the code of each item                             N bytes
 *
 * All is in the byte order of the machine. N and the slots never change; they are
 * checked once. Formats and codes do, and other processes are not trusted with
 * them: each is copied and checked before it is used.
 */
#include <multiprocessing/shared_memory.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "equal_internal.h"
#include "error_internal.h"
#include "shared_memory_internal.h"
#include "value_internal.h"

#define WORD ((size_t)8)           /* bytes of a number, a format, and the least of a slot */
#define TEXT_MAX ((size_t)9999991) /* longest text whose format has 8 characters */

enum code { PLAIN, TEXT, BYTES, NONE };

#define FORMAT_INTEGER "q"
#define FORMAT_FLOAT "d"
#define FORMAT_BOOL "xxxxxxx?"
#define FORMAT_NONE "xxxxxx?x"

struct mp_shareable_list {
    mp__handle handle; /* first: it can travel */
    mp_shared_memory *shm;
    size_t count;
    size_t *slots;  /* count + 1 of them: where each begins in the memory, and the end */
    size_t formats; /* where they begin */
    size_t codes;
};

/* ---- items and slots ---- */

/* One as the layout has it. */
typedef struct item {
    char format[WORD + 1];
    enum code code;
    uint8_t word[WORD]; /* what fills a slot that is no text */
    const char *bytes;  /* text and bytes */
    size_t size;
} item;

static bool is_text(const msgpack_object *value)
{
    return value->type == MSGPACK_OBJECT_STR || value->type == MSGPACK_OBJECT_BIN;
}

static int encode_text(const msgpack_object *value, item *out)
{
    out->code = value->type == MSGPACK_OBJECT_STR ? TEXT : BYTES;
    out->bytes = value->via.bin.ptr; /* text has the same layout */
    out->size = value->via.bin.size;
    if (out->size > TEXT_MAX)
        return mp__fail(
            MP_ETOOLONG, "text or bytes in a shareable list have at most %zu bytes", TEXT_MAX);
    if (out->size && out->bytes[out->size - 1] == '\0')
        return mp__fail(MP_ERANGE, "text or bytes that end with a NUL would come back without it "
                                   "from a shareable list");
    return 0;
}

static void encode_word(item *out, const char *format, const void *word)
{
    (void)strcpy(out->format, format);
    memcpy(out->word, word, WORD);
}

static int encode(const msgpack_object *value, item *out)
{
    uint8_t flag[WORD] = { 0 };

    *out = (item){ .code = PLAIN };
    switch (value->type) {
    case MSGPACK_OBJECT_NIL:
        out->code = NONE;
        encode_word(out, FORMAT_NONE, flag);
        return 0;
    case MSGPACK_OBJECT_BOOLEAN:
        flag[WORD - 1] = value->via.boolean;
        encode_word(out, FORMAT_BOOL, flag);
        return 0;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        if (value->via.u64 > INT64_MAX)
            return mp__fail(MP_ERANGE,
                "%llu does not fit into a shareable list: its integers have a sign and 64 bits",
                (unsigned long long)value->via.u64);
        encode_word(out, FORMAT_INTEGER, &value->via.u64);
        return 0;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        encode_word(out, FORMAT_INTEGER, &value->via.i64);
        return 0;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        encode_word(out, FORMAT_FLOAT, &value->via.f64);
        return 0;
    case MSGPACK_OBJECT_STR:
    case MSGPACK_OBJECT_BIN:
        return encode_text(value, out);
    case MSGPACK_OBJECT_EXT:
        if (value->via.ext.size == MP__EXT_LOCAL && value->via.ext.type == MP__EXT_TOO_LONG)
            return mp__fail(MP_ETOOLONG, "%s", value->via.ext.ptr);
        /* fall through */
    default:
        return mp__fail(MP_ETYPE, "a shareable list has none, bools, integers, floats, text and "
                                  "bytes as items, nothing else");
    }
}

/* The slot of a new item; room for its NUL, by which CPython knows its end. */
static size_t slot_size(const item *i)
{
    return i->code == TEXT || i->code == BYTES ? WORD * (i->size / WORD + 1) : WORD;
}

static char *at(const mp_shareable_list *l, size_t offset)
{
    return (char *)mp_shared_memory_buf(l->shm) + offset;
}

static size_t room(const mp_shareable_list *l, size_t i)
{
    return l->slots[i + 1] - l->slots[i];
}

/* The format is written by whoever knows the slot. */
static void write_item(mp_shareable_list *l, size_t i, const item *what)
{
    char *slot = at(l, l->slots[i]), format[WORD] = { 0 };

    memcpy(format, what->format, strnlen(what->format, WORD));
    memcpy(at(l, l->formats + WORD * i), format, WORD);
    *at(l, l->codes + i) = (char)what->code;
    if (what->code != TEXT && what->code != BYTES) {
        memcpy(slot, what->word, WORD);
        return;
    }
    if (what->size)
        memcpy(slot, what->bytes, what->size);
    memset(slot + what->size, 0, room(l, i) - what->size);
}

static int damaged(size_t i)
{
    return mp__fail(MP_EPROTOCOL,
        "item %zu of the shareable list is none: its memory is damaged, "
        "or another process is setting it",
        i);
}

/* "16s": 16. False: it is something else. */
static bool parse_text_format(const char *format, size_t *size)
{
    size_t n = 0;

    if (*format < '0' || *format > '9')
        return false;
    for (; *format >= '0' && *format <= '9'; format++)
        n = 10 * n + (size_t)(*format - '0'); /* at most 8 digits */
    *size = n;
    return strcmp(format, "s") == 0;
}

static int decode_text(
    const mp_shareable_list *l, size_t i, const char *format, char code, msgpack_object *value)
{
    const char *bytes = at(l, l->slots[i]);
    size_t size;

    if (!parse_text_format(format, &size) || size > room(l, i) || (code != TEXT && code != BYTES))
        return damaged(i);
    while (size && bytes[size - 1] == '\0')
        size--;
    *value = mp_bytes(bytes, size);
    value->type = code == TEXT ? MSGPACK_OBJECT_STR : MSGPACK_OBJECT_BIN;
    return 0;
}

static msgpack_object number(const char *word)
{
    msgpack_object value;

    mp__load(MP__SLOT_SIGNED, sizeof(int64_t), word, &value);
    return value;
}

static msgpack_object floating(const char *word)
{
    msgpack_object value;

    mp__load(MP__SLOT_FLOAT, sizeof(double), word, &value);
    return value;
}

/* Text and bytes stay where they are, and may change there. */
static int decode(const mp_shareable_list *l, size_t i, msgpack_object *value)
{
    const char *slot = at(l, l->slots[i]);
    char format[WORD + 1] = "", word[WORD];
    char code = *at(l, l->codes + i);

    memcpy(format, at(l, l->formats + WORD * i), WORD);
    memcpy(word, slot, WORD);
    if (strcmp(format, FORMAT_INTEGER) == 0 && code == PLAIN)
        *value = number(word);
    else if (strcmp(format, FORMAT_FLOAT) == 0 && code == PLAIN)
        *value = floating(word);
    else if (strcmp(format, FORMAT_BOOL) == 0 && code == PLAIN)
        *value = mp__from_bool(word[WORD - 1] != 0);
    else if (strcmp(format, FORMAT_NONE) == 0 && code == NONE)
        *value = mp_none();
    else
        return decode_text(l, i, format, code, value);
    return 0;
}

/* ---- life ---- */

static int no_list(void)
{
    return mp__fail(MP_EPROTOCOL, "this shared memory holds no shareable list");
}

/* Where things are, from what is in the memory. Nothing of it is believed unchecked. */
static int read_layout(mp_shareable_list *l)
{
    size_t size = mp_shared_memory_size(l->shm), data, left;
    int64_t count, offset, before = 0;

    if (size < 2 * WORD)
        return no_list();
    memcpy(&count, at(l, 0), WORD);
    if (count < 0 || (uint64_t)count > (size - 2 * WORD) / (3 * WORD + 1))
        return no_list(); /* each has an offset, a slot, a format and a code */
    l->count = (size_t)count;
    free(l->slots); /* of an attempt under a name that was taken */
    l->slots = calloc(l->count + 1, sizeof(*l->slots));
    if (!l->slots)
        return mp__fail(MP_ENOMEM, "out of memory for a shareable list");
    data = WORD * (l->count + 2);
    left = size - data - (WORD + 1) * l->count;
    for (size_t i = 0; i <= l->count; i++) {
        memcpy(&offset, at(l, WORD * (i + 1)), WORD);
        if (i ? offset < before + (int64_t)WORD : offset != 0)
            return no_list();
        if ((uint64_t)offset > left)
            return no_list();
        l->slots[i] = data + (size_t)offset;
        before = offset;
    }
    l->formats = l->slots[l->count];
    l->codes = l->formats + WORD * l->count;
    return 0;
}

static int write_slots(mp_shareable_list *l, const msgpack_object *values)
{
    int64_t number = (int64_t)l->count, offset = 0;

    memcpy(at(l, 0), &number, WORD);
    for (size_t i = 0; i < l->count; i++) {
        item one;
        int r = encode(&values[i], &one);

        if (r < 0)
            return r;
        offset += (int64_t)slot_size(&one);
        memcpy(at(l, WORD * (i + 2)), &offset, WORD);
    }
    return 0;
}

static int measure(const msgpack_object *values, size_t count, size_t *size)
{
    *size = 2 * WORD;
    for (size_t i = 0; i < count; i++) {
        item one;
        int r = encode(&values[i], &one);

        if (r < 0)
            return r;
        *size += 2 * WORD + 1 + slot_size(&one);
    }
    return 0;
}

static int set(mp_shareable_list *l, size_t i, const msgpack_object *value)
{
    item what;
    int r = encode(value, &what);

    if (r < 0)
        return r;
    if (is_text(value)) {
        if (what.size > room(l, i))
            return mp__fail(MP_ERANGE, "%zu bytes do not fit into item %zu, which has room for %zu",
                what.size, i, room(l, i));
        (void)snprintf(what.format, sizeof(what.format), "%us", (unsigned)room(l, i));
    }
    write_item(l, i, &what);
    return 0;
}

/* What is put into the memory before anybody can see it by its name. */
typedef struct filling {
    mp_shareable_list *list;
    const msgpack_object *values;
    size_t count;
} filling;

static int fill(mp_shared_memory *shm, void *argument)
{
    const filling *f = argument;
    mp_shareable_list *l = f->list;
    int r;

    l->shm = shm;
    l->count = f->count;
    r = write_slots(l, f->values);
    if (r == 0)
        r = read_layout(l);
    for (size_t i = 0; i < l->count && r == 0; i++)
        r = set(l, i, &f->values[i]);
    l->shm = NULL; /* it is not ours before all has gone well */
    return r;
}

static int make(mp_shareable_list *l, const mp_shareable_list_options *o)
{
    const msgpack_object *values = o->items.via.array.ptr;
    size_t count = o->items.via.array.size, size;
    int r;

    if (o->items.type != MSGPACK_OBJECT_ARRAY)
        return mp__fail(MP_ETYPE, "the items of a shareable list are an mp_list");
    r = measure(values, count, &size);
    if (r < 0)
        return r;
    return mp__shared_memory_make(&(const mp_shared_memory_options){ .create = !o->anonymous,
                                      .anonymous = o->anonymous,
                                      .name = o->name,
                                      .size = size,
                                      .track = o->track },
        fill, &(filling){ l, values, count }, &l->shm);
}

static int attach(mp_shareable_list *l, const mp_shareable_list_options *o)
{
    l->shm = mp_shared_memory_new(.name = o->name);
    return l->shm ? read_layout(l) : mp_last_error()->code;
}

static void destroy(mp_shareable_list *l)
{
    mp_shared_memory_free(l->shm);
    free(l->slots);
    free(l);
}

static mp_shareable_list *allocate(void)
{
    mp_shareable_list *l = calloc(1, sizeof(*l));

    if (l)
        l->handle.kind = &mp__shareable_list_kind;
    else
        (void)mp__fail(MP_ENOMEM, "out of memory for a shareable list");
    return l;
}

mp_shareable_list *mp_shareable_list_create(const mp_shareable_list_options *o)
{
    mp_shareable_list *l = allocate();

    if (!l)
        return NULL;
    if ((o->items.type == MSGPACK_OBJECT_NIL ? attach(l, o) : make(l, o)) < 0) {
        destroy(l);
        return NULL;
    }
    return l;
}

void mp_shareable_list_free(mp_shareable_list *l)
{
    if (!l)
        return;
    if (l->handle.lender)
        mp_shared_memory_close(l->shm); /* the message frees it */
    else
        destroy(l);
}

mp_shareable_list *mp_shareable_list_keep(mp_shareable_list *l)
{
    if (l)
        mp__handle_keep(&l->handle);
    return l;
}

mp_shared_memory *mp_shareable_list_shm(const mp_shareable_list *l)
{
    return l ? l->shm : NULL;
}

size_t mp_shareable_list_len(const mp_shareable_list *l)
{
    return l ? l->count : 0;
}

/* ---- using it ---- */

static int check_open(const mp_shareable_list *l)
{
    if (!l)
        return mp__fail(MP_EINVAL, "no shareable list: NULL");
    return mp_shared_memory_buf(l->shm) ? 0 : mp__fail(MP_ECLOSED, "this shareable list is closed");
}

static int find(const mp_shareable_list *l, ptrdiff_t index, size_t *i)
{
    int r = check_open(l);

    if (r < 0)
        return r;
    *i = index < 0 ? l->count - (size_t) - (index + 1) - 1 : (size_t)index;
    return *i < l->count
               ? 0
               : mp__fail(MP_EINDEX, "a list of %zu items has none of index %td", l->count, index);
}

/* Packs and decodes it, as if it had come in a message: so it is the message's own. */
static int put_into_message(msgpack_object value, mp_message *message)
{
    mp__message *own = mp__message_own(message);
    mp__parcel none;
    int r;

    if (!own)
        return MP_ENOMEM;
    none.count = 0;
    mp__message_reset(message);
    r = mp__value_pack(value, &own->bytes, &none);
    if (r == 0)
        r = mp__buffer_reserve(&own->bytes, own->bytes.size + 1);
    return r == 0 ? mp__value_decode(message) : r;
}

int mp__shareable_list_get(mp_shareable_list *l, ptrdiff_t index, const mp__slot *to)
{
    msgpack_object value = mp_none();
    size_t i;
    int r = find(l, index, &i);

    if (r == 0)
        r = decode(l, i, &value);
    if (r < 0)
        return r;
    switch (to->type) {
    case MP__SLOT_MESSAGE:
        return mp__message_lends((mp_message *)to->pointer, &l->handle)
                   ? mp__fail(MP_EINVAL, "an item cannot be got into the message that lends the "
                                         "list; mp_shareable_list_keep makes it yours")
                   : put_into_message(value, (mp_message *)to->pointer);
    case MP__SLOT_TEXT:
    case MP__SLOT_BYTES:
    case MP__SLOT_OBJECT:
        return mp__fail(MP_EINVAL, "who sets an item changes its bytes in place: get it into an "
                                   "mp_message and take that apart");
    default:
        return mp__store(to->type, to->size, &value, (void *)to->pointer);
    }
}

int mp__shareable_list_set(mp_shareable_list *l, ptrdiff_t index, msgpack_object value)
{
    size_t i;
    int r = find(l, index, &i);

    return r == 0 ? set(l, i, &value) : r;
}

/* The first item from *i on that is equal; *i is the length if there is none. */
static int search(const mp_shareable_list *l, const msgpack_object *value, size_t *i)
{
    msgpack_object one = mp_none();

    for (; *i < l->count; (*i)++) {
        int r = decode(l, *i, &one);

        if (r < 0)
            return r;
        if (mp__equal(&one, value))
            return 0;
    }
    return 0;
}

int mp__shareable_list_count(const mp_shareable_list *l, msgpack_object value, size_t *count)
{
    size_t found = 0;
    int r = check_open(l);

    for (size_t i = 0; r == 0; i++, found++) {
        r = search(l, &value, &i);
        if (r == 0 && i == l->count)
            break;
    }
    if (r == 0)
        *count = found;
    return r;
}

int mp__shareable_list_index(const mp_shareable_list *l, msgpack_object value, size_t *index)
{
    size_t i = 0;
    int r = check_open(l);

    if (r == 0)
        r = search(l, &value, &i);
    if (r == 0 && i == l->count)
        r = mp__fail(MP_EINVAL, "this value is not in the list");
    if (r == 0)
        *index = i;
    return r;
}

size_t mp_shareable_list_format(const mp_shareable_list *l, char *text, size_t capacity)
{
    size_t length = 0;

    if (check_open(l) < 0)
        return 0;
    for (size_t i = 0; i < l->count; i++) {
        char format[WORD + 1] = "";
        size_t size;

        memcpy(format, at(l, l->formats + WORD * i), WORD);
        size = strlen(format);
        for (size_t k = 0; k < size; k++)
            if (length + k + 1 < capacity)
                text[length + k] = format[k];
        length += size;
    }
    if (capacity)
        text[length < capacity ? length : capacity - 1] = '\0';
    return length;
}

/* ---- travelling: as its memory ---- */

static int reduce(const void *object, mp__reduced *reduced)
{
    return mp__shared_memory_reduce(((const mp_shareable_list *)object)->shm, reduced);
}

static int rebuild(const uint8_t *state, size_t size, int *fds, size_t count, void **object)
{
    mp_shareable_list *l = allocate();
    void *shm = NULL;
    int r;

    if (!l)
        return MP_ENOMEM;
    r = mp__shared_memory_rebuild(state, size, fds, count, &shm);
    l->shm = shm;
    if (r == 0)
        r = read_layout(l);
    if (r < 0)
        destroy(l);
    else
        *object = l;
    return r;
}

static void release(void *object)
{
    mp_shareable_list_free(object);
}

const mp__kind mp__shareable_list_kind = { "a shareable list", 34, reduce, rebuild, release };
