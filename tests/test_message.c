/* SPDX-License-Identifier: MIT
 *
 * test_message.c - bytes that arrive are not trusted: whatever they are, they
 * become well-formed values or errors, and no memory is taken on a peer's word.
 * How values of our own travel is test_value.c's business.
 *
 * SEED=number in the environment tries other random bytes.
 */
#include "support.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define GIB (UINT64_C(1) << 30)
#define LONGEST (PTRDIFF_MAX < 16 * GIB ? (uint64_t)PTRDIFF_MAX : 16 * GIB) /* message by default */
#define COUNT(array) (sizeof(array) / sizeof(*(array)))

enum {
    ROOM = 60000, /* bytes a socket and a pipe hold while nobody reads */
    DEEPEST = 32,
    OWN_TYPES = 0x70, /* extension types from here to 0x7f are the library's */
};

/* ---- bytes ---- */

typedef struct text {
    uint8_t bytes[ROOM];
    size_t size;
} text;

static void add(text *t, const void *bytes, size_t size)
{
    assert_true(t->size + size <= ROOM);
    memcpy(t->bytes + t->size, bytes, size);
    t->size += size;
}

static void add_byte(text *t, unsigned byte)
{
    add(t, &(uint8_t){ (uint8_t)byte }, 1);
}

/* Big endian. */
static void add_number(text *t, uint64_t number, unsigned width)
{
    while (width--)
        add_byte(t, (uint8_t)(number >> 8 * width));
}

static void add_frame(text *t, const void *bytes, size_t size)
{
    add_number(t, size, 4);
    add(t, bytes, size);
}

/* ---- a connection that is fed by hand ---- */

typedef struct feed {
    mp_connection *line;
    int raw; /* what is written here arrives */
    mp_message message;
} feed;

/* Used by children too, which never assert. */
static int open_feed(feed *f, bool socket)
{
    int fds[2];

    *f = (feed){ .raw = -1, .message = MP_MESSAGE_INIT };
    if ((socket ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) : pipe2(fds, O_CLOEXEC)) <
        0)
        return -1;
    f->raw = fds[1];
    f->line = mp_connection_new(&fds[0]);
    return f->line ? 0 : -1;
}

static void end_feed(feed *f)
{
    if (f->raw >= 0)
        (void)close(f->raw);
    f->raw = -1;
}

static void close_feed(feed *f)
{
    end_feed(f);
    mp_connection_free(f->line);
    mp_message_clear(&f->message);
}

static int put(int raw, const void *bytes, size_t size)
{
    return size && write(raw, bytes, size) != (ssize_t)size ? -1 : 0;
}

/* All that ever arrives. */
static void open_stream(feed *f, bool socket, const void *bytes, size_t size)
{
    assert_int_equal(open_feed(f, socket), 0);
    assert_int_equal(put(f->raw, bytes, size), 0);
    end_feed(f);
}

static int put_frame(int raw, const void *bytes, size_t size)
{
    uint8_t header[4] = { 0, 0, (uint8_t)(size >> 8), (uint8_t)size };

    return put(raw, header, 4) || put(raw, bytes, size);
}

static int receive(feed *f)
{
    return mp_connection_recv(f->line, &f->message);
}

/* What becomes of these bytes as one message. */
static int offer(feed *f, const void *bytes, size_t size)
{
    return put_frame(f->raw, bytes, size) ? MP_EIO : receive(f);
}

static void show(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size && i < 80; i++)
        print_error("%02x ", bytes[i]);
    print_error("(%zu bytes)\n", size);
}

static void check_offer(feed *f, const void *bytes, size_t size, int code)
{
    int r = offer(f, bytes, size);

    if (r != code) {
        show(bytes, size);
        fail_msg("%s, not %s: %s", mp_error_name(r), mp_error_name(code), mp_last_error()->text);
    }
    assert_true(r == 0 || f->message.value.type == MSGPACK_OBJECT_NIL);
    assert_null(f->message.data);
}

/* The stream is in step. */
static void check_next(feed *f)
{
    int number = 0;

    check_offer(f, "\x2a", 1, 0);
    assert_int_equal(mp_unpack(&f->message, &number), 0);
    assert_int_equal(number, 42);
}

/* ---- whether a value is sound ---- */

enum { PATTERN = 0x5a };

/* A slot is filled, or untouched. */
static void judge_slot(int r, const void *slot, size_t size)
{
    for (size_t i = 0; r < 0 && i < size; i++)
        assert_int_equal(((const uint8_t *)slot)[i], PATTERN);
    assert_true(r == 0 || r == MP_ETYPE || r == MP_ERANGE || r == MP_ECOUNT);
}

#define TRY(value, type)                                            \
    do {                                                            \
        type slot;                                                  \
        memset(&slot, PATTERN, sizeof(slot));                       \
        judge_slot(mp_unpack((value), &slot), &slot, sizeof(slot)); \
    } while (0)

static void try_text(const msgpack_object *value)
{
    const char *words;

    if (mp_unpack(value, &words) == 0 && words)
        assert_int_equal(strlen(words), value->via.str.size);
}

/* What is filled holds the value, all of it. */
static void try_numbers(const msgpack_object *value)
{
    unsigned char byte;
    signed char character;

    if (mp_unpack(value, &byte) == 0 && value->type != MSGPACK_OBJECT_BOOLEAN)
        assert_true(value->type == MSGPACK_OBJECT_POSITIVE_INTEGER && byte == value->via.u64);
    if (mp_unpack(value, &character) == 0 && value->type != MSGPACK_OBJECT_BOOLEAN)
        assert_int_equal(character, value->via.i64);
}

static void try_struct(const msgpack_object *value)
{
    struct point {
        int x, y;
    } point;

    memset(&point, PATTERN, sizeof(point));
    judge_slot(mp_unpack(value, &point), &point, sizeof(point));
    if (mp_unpack(value, &point) == 0)
        assert_int_equal(value->via.bin.size, sizeof(point));
}

static void try_lists(const msgpack_object *value)
{
    int numbers[3];

    memset(numbers, PATTERN, sizeof(numbers));
    judge_slot(mp_unpack(value, &numbers[0], &numbers[1], &numbers[2]), numbers, sizeof(numbers));
    if (value->type != MSGPACK_OBJECT_ARRAY)
        assert_int_equal(mp_unpack(value, &numbers[0], NULL), MP_ETYPE);
}

/* Each type of slot takes it or leaves it. */
static void try_slots(const msgpack_object *value)
{
    TRY(value, bool);
    TRY(value, signed char);
    TRY(value, unsigned char);
    TRY(value, short);
    TRY(value, unsigned);
    TRY(value, long long);
    TRY(value, unsigned long long);
    TRY(value, float);
    TRY(value, double);
    TRY(value, mp_bytes_view);
    TRY(value, msgpack_object);
    TRY(value, const char *);
    try_text(value);
    try_numbers(value);
    try_struct(value);
    try_lists(value);
    assert_int_equal(mp_unpack(value, NULL), 0);
}

static unsigned sum; /* so that nobody leaves out the reading */

static void read_bytes(const void *bytes, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++)
        sum += ((const uint8_t *)bytes)[i];
}

/* Goes through all of it, reads every byte, tries every slot. */
static void walk(const msgpack_object *value, unsigned depth)
{
    assert_true(depth <= DEEPEST);
    try_slots(value);
    if (value->type == MSGPACK_OBJECT_STR)
        read_bytes(value->via.str.ptr, value->via.str.size + 1);
    if (value->type == MSGPACK_OBJECT_STR)
        assert_int_equal(value->via.str.ptr[value->via.str.size], 0);
    if (value->type == MSGPACK_OBJECT_BIN)
        read_bytes(value->via.bin.ptr, value->via.bin.size);
    if (value->type == MSGPACK_OBJECT_EXT && value->via.ext.type < OWN_TYPES)
        read_bytes(value->via.ext.ptr, value->via.ext.size);
    for (uint32_t i = 0; value->type == MSGPACK_OBJECT_ARRAY && i < value->via.array.size; i++)
        walk(&value->via.array.ptr[i], depth + 1);
    for (uint32_t i = 0; value->type == MSGPACK_OBJECT_MAP && i < value->via.map.size; i++) {
        walk(&value->via.map.ptr[i].key, depth + 1);
        walk(&value->via.map.ptr[i].val, depth + 1);
    }
}

/* A way there and back, to see the bytes a value has. */
typedef struct mirror {
    mp_connection *here, *there;
    mp_message first, second, third;
} mirror;

static void open_mirror(mirror *m)
{
    *m = (mirror){ .first = MP_MESSAGE_INIT, .second = MP_MESSAGE_INIT, .third = MP_MESSAGE_INIT };
    assert_int_equal(mp_pipe(&m->here, &m->there), 0);
}

static void close_mirror(mirror *m)
{
    mp_connection_free(m->here);
    mp_connection_free(m->there);
    mp_message_clear(&m->first);
    mp_message_clear(&m->second);
    mp_message_clear(&m->third);
}

static void look_at_bytes(mirror *m, msgpack_object value, mp_message *bytes)
{
    assert_int_equal(mp_connection_send(m->here, value), 0);
    assert_int_equal(mp_connection_recv_bytes(m->there, bytes, MP_ANY_LENGTH), 0);
}

/* It can be used, and sent on: what it is sent as arrives as the same. */
static void check_sound(mirror *m, const mp_message *message)
{
    walk(&message->value, 0);
    look_at_bytes(m, message->value, &m->first);
    assert_int_equal(mp_connection_send_bytes(m->here, m->first.data, m->first.size), 0);
    assert_int_equal(mp_connection_recv(m->there, &m->second), 0);
    look_at_bytes(m, m->second.value, &m->third);
    assert_int_equal(m->first.size, m->third.size);
    assert_memory_equal(m->first.data, m->third.data, m->third.size);
}

/*
 * Receives until an error that stays, at most `size` bytes of them; the values
 * on the way are sound. Returns the error.
 */
static int receive_all(feed *f, mirror *m, size_t size)
{
    int r = 0;

    for (size_t frames = 0; frames <= size / 4 + 1; frames++) {
        r = receive(f);
        if (r == 0)
            check_sound(m, &f->message);
        else if (r != MP_EPROTOCOL)
            break;
        else /* what the guard lets pass, msgpack-c takes */
            assert_null(strstr(mp_last_error()->text, "msgpack-c"));
    }
    assert_int_equal(receive(f), r);
    return r;
}

/* ---- frames ---- */

/* However it is asked, the answer stays the same. */
static void check_broken(feed *f, int code)
{
    char buffer[16];
    size_t size = 7;
    mp_wait_item item = MP_WAIT(f->line);

    for (int i = 0; i < 2; i++) {
        assert_int_equal(receive(f), code);
        assert_int_equal(mp_last_error()->code, code);
        assert_int_equal(mp_connection_recv_bytes(f->line, &f->message, MP_ANY_LENGTH), code);
        assert_int_equal(
            mp_connection_recv_bytes_into(f->line, buffer, sizeof(buffer), &size), code);
    }
    assert_int_equal(size, 7);
    assert_int_equal(mp_connection_poll(f->line, MP_FOREVER), 1);
    assert_int_equal(mp_wait(&item, 1, MP_FOREVER), 1);
    assert_true(item.ready);
}

static void negative_lengths_break_the_stream_for_good(void **state)
{
    static const char *const lengths[] = { "\x80\0\0\0", "\x80\0\0\1", "\xc0\0\0\0", "\xff\0\0\0",
        "\xff\xff\xff\x7f", "\xff\xff\xff\xfe", "\xa5ssl" };

    (void)state;
    for (size_t i = 0; i < 2 * COUNT(lengths); i++) {
        feed f;

        assert_int_equal(open_feed(&f, i % 2), 0);
        check_next(&f);
        assert_int_equal(put(f.raw, lengths[i / 2], 4), 0);
        assert_int_equal(receive(&f), MP_EPROTOCOL);
        check_broken(&f, MP_EPROTOCOL); /* while the peer is there and silent */
        assert_int_equal(put_frame(f.raw, "\x2a", 1), 0);
        check_broken(&f, MP_EPROTOCOL);
        assert_int_equal(f.message.value.type, MSGPACK_OBJECT_POSITIVE_INTEGER);
        close_feed(&f);
    }
}

static void a_broken_connection_still_sends_but_does_not_travel(void **state)
{
    mp_connection *here, *there;
    char got[8];
    feed f;

    (void)state;
    assert_int_equal(open_feed(&f, true), 0);
    assert_int_equal(mp_pipe(&here, &there), 0);
    assert_int_equal(put(f.raw, "\x80\0\0\0", 4), 0);
    assert_int_equal(receive(&f), MP_EPROTOCOL);
    assert_int_equal(mp_connection_send(here, f.line), MP_EHANDLE);
    assert_int_equal(mp_connection_send(f.line, 42), 0);
    assert_int_equal(read(f.raw, got, sizeof(got)), 5);
    assert_memory_equal(got, "\0\0\0\1\x2a", 5);
    mp_connection_free(here);
    mp_connection_free(there);
    close_feed(&f);
}

static int receive_somehow(feed *f, int how)
{
    char buffer[64];
    size_t size;

    if (how == 0)
        return receive(f);
    if (how == 1)
        return mp_connection_recv_bytes(f->line, &f->message, MP_ANY_LENGTH);
    return mp_connection_recv_bytes_into(f->line, buffer, sizeof(buffer), &size);
}

/* Of two messages the second is cut. */
static void check_cut(const char *frame, size_t size, size_t cut, bool socket, int how)
{
    text t = { .size = 0 };
    feed f;

    add_frame(&t, "\x2a", 1);
    add(&t, frame, cut);
    open_stream(&f, socket, t.bytes, t.size);
    assert_int_equal(receive_somehow(&f, how), 0);
    if (cut == size)
        assert_int_equal(receive_somehow(&f, how), 0);
    check_broken(&f, cut && cut < size ? MP_ETRUNCATED : MP_EEOF);
    close_feed(&f);
}

static void a_frame_may_be_cut_at_each_byte(void **state)
{
    static const char small[] = "\0\0\0\6\xa5hello",
                      large[] = "\xff\xff\xff\xff\0\0\0\0\0\0\0\1\xc0";

    (void)state;
    for (int i = 0; i < 6; i++) {
        for (size_t cut = 0; cut < sizeof(small); cut++)
            check_cut(small, sizeof(small) - 1, cut, i / 3, i % 3);
        for (size_t cut = 0; cut < sizeof(large); cut++)
            check_cut(large, sizeof(large) - 1, cut, i / 3, i % 3);
    }
}

static void the_long_form_brings_values_of_any_size(void **state)
{
    static const size_t sizes[] = { 0, 1, 2, 31, 32, 255, 256, 1000, 50000 };
    static text value, stream;

    (void)state;
    for (size_t i = 0; i < 2 * COUNT(sizes); i++) {
        size_t length = sizes[i / 2];
        const char *words = NULL;
        feed f;

        value.size = stream.size = 0;
        add_byte(&value, 0xdb);
        add_number(&value, length, 4);
        for (size_t k = 0; k < length; k++)
            add_byte(&value, 'a' + (unsigned)k % 26);
        add_number(&stream, UINT32_MAX, 4);
        add_number(&stream, value.size, 8);
        add(&stream, value.bytes, value.size);
        open_stream(&f, i % 2, stream.bytes, stream.size);
        assert_int_equal(receive(&f), 0);
        assert_int_equal(mp_unpack(&f.message, &words), 0);
        assert_int_equal(strlen(words), length);
        assert_memory_equal(words, value.bytes + 5, length);
        check_broken(&f, MP_EEOF);
        close_feed(&f);
    }
}

static void set_limits(uint64_t message_bytes, uint64_t elements, unsigned depth)
{
    assert_int_equal(mp_set_limits(&(mp_limits){ message_bytes, elements, depth }), 0);
}

/* The limits a process begins with. */
static void reset_limits(void)
{
    set_limits(16 * GIB, UINT64_C(1) << 28, DEEPEST);
}

static void a_huge_length_is_an_error_and_stays_pending(void **state)
{
    static const uint64_t lengths[] = { 16 * GIB + 1, UINT64_C(1) << 40, INT64_MAX,
        UINT64_C(1) << 63, UINT64_MAX - 1, UINT64_MAX };

    (void)state;
    for (size_t i = 0; i < 2 * COUNT(lengths); i++) {
        text t = { .size = 0 };
        feed f;

        add_frame(&t, "\x2a", 1);
        add_number(&t, UINT32_MAX, 4);
        add_number(&t, lengths[i / 2], 8);
        assert_int_equal(open_feed(&f, i % 2), 0);
        assert_int_equal(put(f.raw, t.bytes, t.size), 0);
        assert_int_equal(receive(&f), 0);
        check_broken(&f, MP_ETOOLONG);
        assert_int_equal(f.message.value.via.u64, 42); /* what was received before is still there */
        close_feed(&f);
    }
}

static void a_length_below_the_limit_is_waited_for_whatever_it_is(void **state)
{
    static const uint64_t lengths[] = { 1 << 20, (1 << 20) + 1, INT32_MAX, LONGEST };

    (void)state;
    for (size_t i = 0; i < 2 * COUNT(lengths); i++) {
        text t = { .size = 0 };
        feed f;

        add_number(&t, UINT32_MAX, 4);
        add_number(&t, lengths[i / 2], 8);
        add(&t, "abc", 3);
        open_stream(&f, i % 2, t.bytes, t.size);
        assert_int_equal(receive(&f), MP_ETRUNCATED);
        check_broken(&f, MP_ETRUNCATED);
        close_feed(&f);
    }
}

/* With a limit of 5 bytes: "hell" passes, "hello" is pending until the limit is raised. */
static void check_limit(bool socket)
{
    int codes[5];
    feed f;

    assert_int_equal(open_feed(&f, socket), 0);
    set_limits(5, 0, 0);
    codes[0] = offer(&f, "\xa4hell", 5);
    codes[1] = offer(&f, "\xa5hello", 6);
    codes[2] = receive(&f);
    codes[3] = mp_connection_recv_bytes(f.line, &f.message, MP_ANY_LENGTH);
    set_limits(6, 0, 0);
    codes[4] = receive(&f);
    reset_limits();
    assert_int_equal(codes[0], 0);
    assert_int_equal(codes[1], MP_ETOOLONG);
    assert_int_equal(codes[2], MP_ETOOLONG);
    assert_int_equal(codes[3], MP_ETOOLONG);
    assert_int_equal(codes[4], 0);
    assert_string_equal(f.message.value.via.str.ptr, "hello");
    check_next(&f);
    close_feed(&f);
}

static void a_message_above_the_limit_waits_for_another_limit(void **state)
{
    (void)state;
    check_limit(false);
    check_limit(true);
}

static void an_empty_frame_is_no_value_but_is_bytes(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        feed f;

        assert_int_equal(open_feed(&f, i % 2), 0);
        if (i / 2) /* there is memory from before */
            check_next(&f);
        assert_int_equal(put_frame(f.raw, "", 0), 0);
        assert_int_equal(mp_connection_recv_bytes(f.line, &f.message, MP_ANY_LENGTH), 0);
        assert_int_equal(f.message.size, 0);
        assert_non_null(f.message.data);
        assert_int_equal(mp_unpack(&f.message, NULL), 0); /* of bytes the value is none */
        check_offer(&f, "", 0, MP_EPROTOCOL);
        check_next(&f);
        close_feed(&f);
    }
}

/* ---- texts that are no MessagePack ---- */

struct bytes {
    const char *at;
    size_t size;
};

#define BYTES(literal)               \
    {                                \
        literal, sizeof(literal) - 1 \
    }

static const struct bytes malformed[] = {
    /* nothing, and the byte that means nothing */
    BYTES(""),
    BYTES("\xc1"),
    BYTES("\x91\xc1"),
    BYTES("\x81\xc1\xc0"),
    BYTES("\x81\xc0\xc1"),
    BYTES("\x93\x01\xc1\x02"),
    /* less than was announced */
    BYTES("\x91"),
    BYTES("\x93\x01"),
    BYTES("\x93\x01\x02"),
    BYTES("\x81"),
    BYTES("\x81\xc0"),
    BYTES("\x9f"),
    BYTES("\x8f"),
    BYTES("\xa1"),
    BYTES("\xbf 30 bytes, not thirty-one ...."),
    BYTES("\x92\xa5hell\xc0"),
    /* more than one value */
    BYTES("\x2a\x2a"),
    BYTES("\xc0\xc1"),
    BYTES("\xc0\0"),
    BYTES("\x90\x90"),
    BYTES("\x80\x80"),
    BYTES("\xa0\xa0"),
    BYTES("\xa1xy"),
    BYTES("\xc4\1xy"),
    BYTES("\x91\x2a\x2a"),
    /* lengths beyond everything */
    BYTES("\xc4\xff"),
    BYTES("\xc5\xff\xff"),
    BYTES("\xc6\xff\xff\xff\xff"),
    BYTES("\xc6\xff\xff\xff\xff\0\0\0\0"),
    BYTES("\xc6\x80\0\0\0"),
    BYTES("\xc7\xff\5"),
    BYTES("\xc8\xff\xff\5"),
    BYTES("\xc9\xff\xff\xff\xff"),
    BYTES("\xc9\xff\xff\xff\xff\5"),
    BYTES("\xc9\xff\xff\xff\xfe\5\0\0"),
    BYTES("\xc9\xff\xff\xff\xff\x70\1\0\0\0"),
    BYTES("\xc9\xff\xff\xff\xff\x71\0\0\0\0\0\0\0\0"),
    BYTES("\xd9\xff"),
    BYTES("\xda\xff\xff"),
    BYTES("\xdb\xff\xff\xff\xff"),
    BYTES("\xdb\xff\xff\xff\xff\0\0\0\0"),
    BYTES("\xdb\x7f\xff\xff\xff"),
    BYTES("\xdc\xff\xff"),
    BYTES("\xdd\xff\xff\xff\xff"),
    BYTES("\xdd\xff\xff\xff\xff\0\0\0\0"),
    BYTES("\xdd\x10\0\0\0"),
    BYTES("\xdd\0\x10\0\0"),
    BYTES("\xde\xff\xff"),
    BYTES("\xdf\xff\xff\xff\xff"),
    BYTES("\xdf\xff\xff\xff\xff\0\0\0\0"),
    BYTES("\xdf\x80\0\0\0\0\0"),
    BYTES("\xdf\x80\0\0\1\0\0"),
    /* each list within the bytes left, but not all together */
    BYTES("\x92\x92\x92\xc0\xc0"),
    BYTES("\x94\x93\xc0\xc0\xc0"),
    BYTES("\xdc\0\4\xdc\0\4\xc0\xc0\xc0\xc0"),
    BYTES("\x82\x81\xc0\xc0\xc0"),
    /* the library's own extensions: none of these is a handle */
    BYTES("\xd4\x70\1"),
    BYTES("\xd5\x70\1\0"),
    BYTES("\xc7\0\x70"),
    BYTES("\xc7\1\x70\1"),
    BYTES("\xc7\3\x70\1\0\0"),
    BYTES("\xc7\4\x70\1\1\0\0"),
    BYTES("\xc7\5\x70\1\1\0\0\x0f"),
    BYTES("\xc7\5\x70\1\xff\0\0\x0f"),
    BYTES("\xc7\5\x70\1\5\0\0\x0f"),
    BYTES("\xc7\5\x70\1\0\0\1\x0f"),
    BYTES("\xc7\5\x70\1\0\xff\xff\x0f"),
    BYTES("\xc7\5\x70\1\1\xff\xff\x0f"),
    BYTES("\xd6\x70\1\1\0\0"),
    BYTES("\xd7\x70\1\1\0\0\x0f\0\0\0"),
    BYTES("\xd8\x70\1\1\0\0\x0f\0\0\0\0\0\0\0\0\0\0\0"),
    BYTES("\xc7\4\x71\x63\0\0\0"),
    BYTES("\xc7\4\x72\x63\0\0\0"),
    BYTES("\xd6\x7f\x63\0\0\0"),
    BYTES("\x92\x01\xd4\x71\0"),
    BYTES("\x81\xd4\x72\0\xc0"),
    BYTES("\x81\xc0\xd4\x73\0"),
};

static void malformed_texts_end_one_message_each(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * COUNT(malformed); i++) {
        feed f;

        assert_int_equal(open_feed(&f, i % 2), 0);
        check_offer(&f, malformed[i / 2].at, malformed[i / 2].size, MP_EPROTOCOL);
        assert_int_equal(mp_last_error()->code, MP_EPROTOCOL);
        assert_null(strstr(mp_last_error()->text, "msgpack-c"));
        check_next(&f);
        close_feed(&f);
    }
}

/* What a lead byte begins, from c0 on, and the bytes of its length or number. */
/* clang-format off */
static const struct {
    enum { ALONE, NOTHING, FIXED, SIZED, TYPED, FIXED_TYPED, LIST, DICT } sort;
    unsigned width;
} leads[32] = {
    { ALONE, 0 }, { NOTHING, 0 }, { ALONE, 0 }, { ALONE, 0 },   /* none, c1, false, true */
    { SIZED, 1 }, { SIZED, 2 }, { SIZED, 4 },                   /* bin */
    { TYPED, 1 }, { TYPED, 2 }, { TYPED, 4 },                   /* ext */
    { FIXED, 4 }, { FIXED, 8 },                                 /* float */
    { FIXED, 1 }, { FIXED, 2 }, { FIXED, 4 }, { FIXED, 8 },     /* uint */
    { FIXED, 1 }, { FIXED, 2 }, { FIXED, 4 }, { FIXED, 8 },     /* int */
    { FIXED_TYPED, 1 }, { FIXED_TYPED, 2 }, { FIXED_TYPED, 4 }, /* fixext */
    { FIXED_TYPED, 8 }, { FIXED_TYPED, 16 },
    { SIZED, 1 }, { SIZED, 2 }, { SIZED, 4 },                   /* str */
    { LIST, 2 }, { LIST, 4 }, { DICT, 2 }, { DICT, 4 },
};
/* clang-format on */

static int sort_of(unsigned lead)
{
    if (lead >= 0xc0 && lead <= 0xdf)
        return (int)leads[lead - 0xc0].sort;
    if (lead <= 0x7f || lead >= 0xe0)
        return ALONE;
    return lead <= 0x8f ? DICT : lead <= 0x9f ? LIST : SIZED;
}

static unsigned width_of(unsigned lead)
{
    return lead >= 0xc0 && lead <= 0xdf ? leads[lead - 0xc0].width : 0;
}

/* The lead byte and the length, which some lead bytes hold themselves. Returns the length. */
static size_t add_head(text *t, unsigned lead, size_t length)
{
    add_byte(t, lead);
    if (sort_of(lead) == FIXED || sort_of(lead) == FIXED_TYPED)
        return width_of(lead);
    add_number(t, length, width_of(lead));
    if (width_of(lead))
        return length;
    return sort_of(lead) == ALONE ? 0 : sort_of(lead) == SIZED ? lead & 0x1f : lead & 0x0f;
}

/* A well-formed value for each lead byte but c1. */
static void make_value(text *t, unsigned lead, size_t length)
{
    size_t count;

    t->size = 0;
    count = add_head(t, lead, length);
    if (sort_of(lead) == TYPED || sort_of(lead) == FIXED_TYPED)
        add_byte(t, 5);
    if (sort_of(lead) == DICT)
        count *= 2;
    while (count--)
        add_byte(t, sort_of(lead) == SIZED ? 'x' : 1);
}

/* It arrives; with a byte less, a byte more, twice, or as a list's last value cut it does not. */
static void check_value(feed *f, const text *value)
{
    static text changed;

    check_offer(f, value->bytes, value->size, 0);
    for (size_t size = 0; size < value->size; size++) {
        check_offer(f, value->bytes, size, MP_EPROTOCOL);
        changed.size = 0;
        add_byte(&changed, 0x92);
        add(&changed, value->bytes, value->size);
        add(&changed, value->bytes, size);
        check_offer(f, changed.bytes, changed.size, MP_EPROTOCOL);
    }
    for (unsigned more = 0; more < 256; more += 51) {
        changed.size = 0;
        add(&changed, value->bytes, value->size);
        add_byte(&changed, more);
        check_offer(f, changed.bytes, changed.size, MP_EPROTOCOL);
    }
    add(&changed, value->bytes, value->size);
    check_offer(f, changed.bytes, changed.size, MP_EPROTOCOL);
}

static void a_value_of_each_kind_may_be_cut_at_each_byte(void **state)
{
    static const size_t lengths[] = { 0, 1, 7 };
    static text value;
    feed f;

    (void)state;
    assert_int_equal(open_feed(&f, true), 0);
    for (unsigned lead = 0; lead < 256; lead++) {
        for (size_t i = 0; i < COUNT(lengths) && lead != 0xc1; i++) {
            make_value(&value, lead, lengths[i]);
            check_value(&f, &value);
        }
    }
    check_next(&f);
    close_feed(&f);
}

/* The bytes of seven items, and heads that claim more. */
static void check_claims(feed *f, unsigned lead)
{
    uint64_t most = (UINT64_C(1) << 8 * width_of(lead)) - 1;
    uint64_t claims[] = { 8, most / 8, most / 4 + 1, most / 2, most / 2 + 1, most - 1, most };
    static text value, liar;

    make_value(&value, lead, 7);
    for (size_t i = 0; i < COUNT(claims); i++) {
        liar.size = 0;
        (void)add_head(&liar, lead, (size_t)claims[i]);
        add(&liar, value.bytes + liar.size, value.size - liar.size);
        check_offer(f, liar.bytes, liar.size, MP_EPROTOCOL);
        check_offer(f, liar.bytes, 1 + width_of(lead), MP_EPROTOCOL);
    }
}

static void lengths_beyond_the_end_are_refused_for_each_kind(void **state)
{
    feed f;

    (void)state;
    assert_int_equal(open_feed(&f, true), 0);
    for (unsigned lead = 0xc4; lead <= 0xdf; lead++)
        if (sort_of(lead) != FIXED && sort_of(lead) != FIXED_TYPED)
            check_claims(&f, lead);
    check_next(&f);
    close_feed(&f);
}

/* ---- depth and number ---- */

/* One level of nesting: what stands before and behind the next. */
static const struct level {
    struct bytes before, behind;
} levels[] = {
    { BYTES("\x91"), BYTES("") }, { BYTES("\x92\xc0"), BYTES("") },
    { BYTES("\x92"), BYTES("\xc0") }, { BYTES("\x81\xc0"), BYTES("") },
    { BYTES("\x81"), BYTES("\xc0") }, { BYTES("\x82\1\2"), BYTES("\3") },
    { BYTES("\xdc\0\1"), BYTES("") }, { BYTES("\xdd\0\0\0\1"), BYTES("") },
    { BYTES("\xde\0\1\xa1k"), BYTES("") }, { BYTES("\xdf\0\0\0\1"), BYTES("\xc3") },
    { BYTES("\x91\x81\xc0\x91\x81"), BYTES("\xc0") }, /* four levels */
};

static void nest(text *t, const struct level *level, size_t depth, const char *inside)
{
    t->size = 0;
    for (size_t i = 0; i < depth; i++)
        add(t, level->before.at, level->before.size);
    add(t, inside, 1);
    for (size_t i = 0; i < depth; i++)
        add(t, level->behind.at, level->behind.size);
}

static void lists_and_dicts_may_be_32_deep_and_no_deeper(void **state)
{
    static text t;
    mirror m;
    feed f;

    (void)state;
    open_mirror(&m);
    assert_int_equal(open_feed(&f, true), 0);
    for (size_t i = 0; i < COUNT(levels); i++) {
        size_t deepest = i == COUNT(levels) - 1 ? DEEPEST / 4 : DEEPEST;

        nest(&t, &levels[i], deepest, "\xc0");
        check_offer(&f, t.bytes, t.size, 0);
        check_sound(&m, &f.message);
        nest(&t, &levels[i], deepest, "\x90"); /* an empty one counts */
        check_offer(&f, t.bytes, t.size, MP_EPROTOCOL);
        nest(&t, &levels[i], deepest + 1, "\xc0");
        check_offer(&f, t.bytes, t.size, MP_EPROTOCOL);
    }
    check_next(&f);
    close_feed(&f);
    close_mirror(&m);
}

static void depth_bombs_are_refused(void **state)
{
    static text t;
    feed f;

    (void)state;
    assert_int_equal(open_feed(&f, true), 0);
    for (size_t i = 0; i < COUNT(levels); i++) {
        size_t most = (ROOM - 1) / (levels[i].before.size + levels[i].behind.size);

        for (size_t depth = 40; depth < most; depth *= 3) {
            nest(&t, &levels[i], depth, "\xc0");
            check_offer(&f, t.bytes, t.size, MP_EPROTOCOL);
            check_offer(&f, t.bytes, depth * levels[i].before.size, MP_EPROTOCOL);
        }
    }
    check_next(&f);
    close_feed(&f);
}

static void a_lower_limit_of_depth_is_kept(void **state)
{
    int codes[2 * DEEPEST], count = 0;
    static text t;
    feed f;

    (void)state;
    assert_int_equal(open_feed(&f, true), 0);
    for (unsigned limit = 1; limit <= DEEPEST; limit *= 2) {
        set_limits(0, 0, limit);
        for (unsigned deeper = 0; deeper < 2; deeper++) {
            nest(&t, &levels[0], limit + deeper, "\xc0");
            codes[count++] = offer(&f, t.bytes, t.size);
        }
    }
    reset_limits();
    for (int i = 0; i < count; i++)
        assert_int_equal(codes[i], i % 2 ? MP_EPROTOCOL : 0);
    assert_int_equal(mp_set_limits(&(mp_limits){ .depth = DEEPEST + 1 }), MP_EINVAL);
    assert_int_equal(mp_set_limits(NULL), MP_EINVAL);
    close_feed(&f);
}

/* Lists and dicts count too, and so do keys. */
static void more_values_than_the_limit_allows_are_refused(void **state)
{
    static const struct bytes five[] = { BYTES("\x94\1\2\3\4"), BYTES("\x82\1\2\3\4"),
        BYTES("\x92\x92\1\2\3"), BYTES("\x91\x91\x91\x91\x90"), BYTES("\x94\x80\xa1x\xc4\1x\xc0") };
    int codes[2 * COUNT(five)];
    feed f;

    (void)state;
    assert_int_equal(open_feed(&f, true), 0);
    for (size_t i = 0; i < COUNT(codes); i++) {
        set_limits(0, i % 2 ? 5 : 4, 0);
        codes[i] = offer(&f, five[i / 2].at, five[i / 2].size);
    }
    reset_limits();
    for (size_t i = 0; i < COUNT(codes); i++)
        assert_int_equal(codes[i], i % 2 ? 0 : MP_EPROTOCOL);
    check_next(&f);
    close_feed(&f);
}

/* ---- odd texts that are MessagePack all the same ---- */

static void numbers_in_wider_forms_than_they_need_arrive(void **state)
{
    static const struct bytes five[] = { BYTES("\5"), BYTES("\xcc\5"), BYTES("\xcd\0\5"),
        BYTES("\xce\0\0\0\5"), BYTES("\xcf\0\0\0\0\0\0\0\5"), BYTES("\xd0\5"), BYTES("\xd1\0\5"),
        BYTES("\xd2\0\0\0\5"), BYTES("\xd3\0\0\0\0\0\0\0\5") };
    feed f;

    (void)state;
    assert_int_equal(open_feed(&f, true), 0);
    for (size_t i = 0; i < COUNT(five); i++) {
        unsigned char u = 0;
        int s = 0;

        check_offer(&f, five[i].at, five[i].size, 0);
        assert_int_equal(mp_unpack(&f.message, &u), 0);
        assert_int_equal(mp_unpack(&f.message, &s), 0);
        assert_int_equal(u, 5);
        assert_int_equal(s, 5);
    }
    close_feed(&f);
}

static void the_largest_unsigned_number_is_not_minus_one(void **state)
{
    unsigned long long u = 0;
    long long s = 7;
    feed f;

    (void)state;
    assert_int_equal(open_feed(&f, true), 0);
    check_offer(&f, "\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9, 0);
    assert_int_equal(mp_unpack(&f.message, &s), MP_ERANGE);
    assert_int_equal(mp_unpack(&f.message, &u), 0);
    assert_true(s == 7 && u == UINT64_MAX);
    check_offer(&f, "\xd3\xff\xff\xff\xff\xff\xff\xff\xff", 9, 0);
    assert_int_equal(mp_unpack(&f.message, &u), MP_ERANGE);
    assert_int_equal(mp_unpack(&f.message, &s), 0);
    assert_true(s == -1 && u == UINT64_MAX);
    close_feed(&f);
}

static void text_may_hold_any_bytes_but_nul_only_fits_a_view(void **state)
{
    const char *words = "untouched";
    mp_bytes_view view;
    feed f;

    (void)state;
    assert_int_equal(open_feed(&f, true), 0);
    check_offer(&f, "\xa3x\0y", 4, 0);
    assert_int_equal(mp_unpack(&f.message, &words), MP_ERANGE);
    assert_string_equal(words, "untouched");
    assert_int_equal(mp_unpack(&f.message, &view), 0);
    assert_int_equal(view.size, 3);
    assert_memory_equal(view.data, "x\0y", 4); /* and its own NUL */
    check_offer(&f, "\xa1\0", 2, 0);
    assert_int_equal(mp_unpack(&f.message, &words), MP_ERANGE);
    check_offer(&f, "\xa4\xff\xc0\x80\xf5", 5, 0); /* no UTF-8 */
    assert_int_equal(mp_unpack(&f.message, &words), 0);
    assert_string_equal(words, "\xff\xc0\x80\xf5");
    close_feed(&f);
}

/* In every length form; msgpack-c itself has no address for some of them. */
static void empty_values_arrive_in_each_form(void **state)
{
    static const struct bytes empty[] = { BYTES("\xa0"), BYTES("\xd9\0"), BYTES("\xda\0\0"),
        BYTES("\xdb\0\0\0\0"), BYTES("\xc4\0"), BYTES("\xc5\0\0"), BYTES("\xc6\0\0\0\0") };
    feed f;

    (void)state;
    assert_int_equal(open_feed(&f, true), 0);
    for (size_t i = 0; i < COUNT(empty); i++) {
        mp_bytes_view view = { NULL, 7 };
        const char *words = NULL;

        check_offer(&f, empty[i].at, empty[i].size, 0);
        assert_int_equal(mp_unpack(&f.message, &words), i < 4 ? 0 : MP_ETYPE);
        assert_int_equal(mp_unpack(&f.message, &view), 0);
        assert_non_null(view.data);
        assert_int_equal(view.size, 0);
        if (i < 4)
            assert_string_equal(words, "");
    }
    close_feed(&f);
}

static void a_key_may_be_anything_and_be_there_twice(void **state)
{
    mirror m;
    feed f;

    (void)state;
    open_mirror(&m);
    assert_int_equal(open_feed(&f, true), 0);
    check_offer(&f, "\x84\xa1k\1\xa1k\2\x91\xc0\3\x81\xc0\xc0\x90", 14, 0);
    assert_int_equal(f.message.value.via.map.size, 4);
    assert_int_equal(f.message.value.via.map.ptr[0].val.via.u64, 1);
    assert_int_equal(f.message.value.via.map.ptr[1].val.via.u64, 2);
    check_sound(&m, &f.message);
    close_feed(&f);
    close_mirror(&m);
}

static void extensions_of_the_program_arrive_in_each_form(void **state)
{
    static text t;
    mirror m;
    feed f;

    (void)state;
    open_mirror(&m);
    assert_int_equal(open_feed(&f, true), 0);
    for (unsigned type = 0; type < 256; type++) {
        for (unsigned lead = 0xc7; lead <= 0xd8; lead++) {
            bool ours = type >= OWN_TYPES && type <= 0x7f;

            if (sort_of(lead) == FIXED)
                continue;
            make_value(&t, lead, lead == 0xc9 ? 300 : type % 3);
            t.bytes[sort_of(lead) == TYPED ? 1 + width_of(lead) : 1] = (uint8_t)type;
            check_offer(&f, t.bytes, t.size, ours ? MP_EPROTOCOL : 0);
            if (!ours)
                check_sound(&m, &f.message);
        }
    }
    close_feed(&f);
    close_mirror(&m);
}

/* ---- handles that are none ---- */

enum { FDS_MAX = 8 };

/* A frame with descriptors that come along with its first byte. */
static void send_with(int raw, const text *body, const int *fds, size_t count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control = { .bytes = { 0 } };
    uint8_t header[4] = { 0, 0, (uint8_t)(body->size >> 8), (uint8_t)body->size };
    struct iovec parts[2] = { { header, 4 }, { (void *)body->bytes, body->size } };
    struct msghdr message = { .msg_iov = parts,
        .msg_iovlen = 2,
        .msg_control = control.bytes,
        .msg_controllen = (socklen_t)CMSG_SPACE(count * sizeof(int)) };

    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = (socklen_t)CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
    assert_int_equal(sendmsg(raw, &message, MSG_NOSIGNAL), 4 + body->size);
}

/* With the ends of so many sockets; what became of it is in the message. */
static int offer_with_sockets(feed *f, const void *bytes, size_t size, int count)
{
    static text body;
    int ends[FDS_MAX];

    for (int i = 0; i < count; i++)
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, &ends[2 * i]), 0);
    body.size = 0;
    add(&body, bytes, size);
    send_with(f->raw, &body, ends, 2 * (size_t)count);
    for (int i = 0; i < 2 * count; i++)
        (void)close(ends[i]);
    return receive(f);
}

static void a_handle_of_no_known_kind_is_not_taken_for_another(void **state)
{
    mp_connection *line = NULL;
    mirror m;
    feed f;
    int number;

    (void)state;
    open_mirror(&m);
    assert_int_equal(open_feed(&f, true), 0);
    check_offer(&f, "\xc7\5\x70\x63\0\0\0!", 8, 0);
    assert_int_equal(mp_unpack(&f.message, &line), MP_ETYPE);
    assert_int_equal(mp_unpack(&f.message, &number), MP_ETYPE);
    assert_null(line);
    look_at_bytes(&m, f.message.value, &m.first); /* but it can be passed on */
    assert_int_equal(m.first.size, 8);
    assert_memory_equal(m.first.data, "\xc7\5\x70\x63\0\0\0!", 8);
    close_feed(&f);
    close_mirror(&m);
}

/* No handle has more descriptors or more state. */
static void handles_have_up_to_4_descriptors_and_256_bytes_of_state(void **state)
{
    int before = count_descriptors();
    feed f;

    (void)state;
    for (size_t bytes = 255; bytes < 259; bytes++) {
        for (uint8_t count = 3; count < 7; count++) {
            text t = { .size = 0 };
            bool fits = bytes <= 256 && count <= 4;

            add_byte(&t, 0xc8);
            add_byte(&t, (4 + (unsigned)bytes) >> 8);
            add_byte(&t, (4 + (unsigned)bytes) & 0xff);
            add(&t, (const uint8_t[]){ 0x70, 0x63, count, 0, 0 }, 5);
            for (size_t i = 0; i < bytes; i++)
                add_byte(&t, 's');
            assert_int_equal(open_feed(&f, true), 0);
            assert_int_equal(offer_with_sockets(&f, t.bytes, t.size, 3), fits ? 0 : MP_EPROTOCOL);
            check_next(&f);
            close_feed(&f);
            assert_int_equal(count_descriptors(), before);
        }
    }
}

/* Connections with no descriptor, no state, too much state, too many descriptors. */
static void a_malformed_connection_is_an_error_when_it_is_unpacked(void **state)
{
    static const struct bytes bad[] = { BYTES("\xc7\5\x70\1\0\0\0\x0f"), BYTES("\xd6\x70\1\1\0\0"),
        BYTES("\xc7\6\x70\1\1\0\0\x0f\x0f"), BYTES("\xc7\5\x70\1\2\0\0\x0f"),
        BYTES("\xc7\5\x70\1\0\0\2\x0f"), BYTES("\xd6\x70\1\2\0\0") };
    int before = count_descriptors();

    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        mp_connection *line = NULL;
        feed f;

        assert_int_equal(open_feed(&f, true), 0);
        assert_int_equal(offer_with_sockets(&f, bad[i].at, bad[i].size, 1), 0);
        for (int again = 0; again < 2; again++)
            assert_int_equal(mp_unpack(&f.message, &line), MP_EPROTOCOL);
        assert_null(line);
        check_next(&f);
        close_feed(&f);
        assert_int_equal(count_descriptors(), before);
    }
}

static void handles_that_name_the_same_descriptor_get_it_once(void **state)
{
    static const char twice[] = "\x92\xc7\5\x70\1\1\0\1\x0f\xc7\5\x70\1\1\0\1\x0f";
    int before = count_descriptors();
    mp_connection *first = NULL, *second = NULL;
    feed f;

    (void)state;
    assert_int_equal(open_feed(&f, true), 0);
    assert_int_equal(offer_with_sockets(&f, twice, sizeof(twice) - 1, 1), 0);
    assert_int_equal(mp_unpack(&f.message, &first, &second), MP_EPROTOCOL);
    assert_null(first);
    assert_int_equal(mp_unpack(&f.message, &first, NULL), 0);
    assert_int_equal(mp_unpack(&f.message, NULL, &second), MP_EPROTOCOL);
    (void)mp_connection_keep(first);
    close_feed(&f);
    assert_int_equal(count_descriptors(), before + 1);
    mp_connection_free(first);
}

/* It says it is a Unix socket that can do everything; it is not even open for reading. */
static void a_connection_that_lies_about_its_descriptor_gives_errors(void **state)
{
    static const char boast[] = "\xc7\5\x70\1\1\0\0\x0f";
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    text body = { .size = 0 };
    feed f;

    (void)state;
    assert_int_equal(open_feed(&f, true), 0);
    add(&body, boast, sizeof(boast) - 1);
    send_with(f.raw, &body, &fd, 1);
    (void)close(fd);
    assert_int_equal(receive(&f), 0);
    assert_int_equal(mp_unpack(&f.message, &line), 0);
    assert_true(mp_connection_send(line, 1) < 0);
    assert_true(mp_connection_send(line, f.line) < 0);
    assert_true(mp_connection_recv(line, &message) < 0);
    close_feed(&f);
    mp_message_clear(&message);
}

/* ---- a session, replayed with faults ---- */

enum { MESSAGES = 14 };

typedef struct session {
    text stream;
    size_t begins[MESSAGES + 1]; /* where each frame begins, and the end */
} session;

static void send_message(mp_connection *line, int which)
{
    struct place {
        int x, y;
        double height;
    } place = { 3, 4, 5.5 };
    msgpack_object ext = { .type = MSGPACK_OBJECT_EXT, .via.ext = { 5, 3, "ext" } };
    msgpack_object wide = { .type = MSGPACK_OBJECT_EXT, .via.ext = { -1, 16, "sixteen bytes..." } };
    const msgpack_object values[MESSAGES] = {
        mp_list(0, 127, 128, 255, 256, 65535, 65536, UINT32_MAX, UINT64_MAX),
        mp_list(-1, -32, -33, -128, -129, -32769, INT32_MIN, INT64_MIN),
        mp_list(1.5, -0.0, 0.1f, (double)NAN, HUGE_VAL),
        mp_list("text"),
        mp_list("", "a text of more than thirty-one bytes"),
        mp_bytes("\0\1\2\3\xff", 5),
        mp_list(mp_list(mp_list(), 1), mp_list(mp_list(2, mp_list("three")))),
        mp_dict("key", 1, 2, mp_list("value", mp_dict("inner", mp_none()))),
        mp_none(),
        mp_list((bool)true, (bool)false),
        mp_struct(&place),
        mp_list(ext, wide),
        mp_dict(),
        mp_list(42),
    };

    assert_int_equal(mp__connection_send(line, values[which]), 0);
}

/* The bytes a connection writes for a dozen messages. */
static void record(session *s)
{
    feed f;

    s->stream.size = 0;
    assert_int_equal(open_feed(&f, true), 0);
    for (int i = 0; i < MESSAGES; i++) {
        char frame[512];
        ssize_t n;

        send_message(f.line, i);
        n = read(f.raw, frame, sizeof(frame));
        assert_true(n > 4);
        s->begins[i] = s->stream.size;
        add(&s->stream, frame, (size_t)n);
    }
    s->begins[MESSAGES] = s->stream.size;
    close_feed(&f);
}

/* The message is the one recorded at that place. */
static void check_same(mirror *m, const mp_message *message, const session *s, int which)
{
    size_t begin = s->begins[which] + 4, end = s->begins[which + 1];

    look_at_bytes(m, message->value, &m->first);
    assert_int_equal(m->first.size, end - begin);
    assert_memory_equal(m->first.data, s->stream.bytes + begin, end - begin);
}

static int message_at(const session *s, size_t place)
{
    int which = 0;

    while (s->begins[which + 1] <= place)
        which++;
    return which;
}

static void a_session_may_be_cut_at_each_byte(void **state)
{
    static session s;
    mirror m;

    (void)state;
    record(&s);
    open_mirror(&m);
    for (size_t cut = 0; cut <= s.stream.size; cut++) {
        int whole = cut < s.stream.size ? message_at(&s, cut) : MESSAGES;
        feed f;

        open_stream(&f, cut % 2, s.stream.bytes, cut);
        for (int i = 0; i < whole; i++) {
            assert_int_equal(receive(&f), 0);
            check_same(&m, &f.message, &s, i);
        }
        for (int i = 0; i < 2; i++)
            assert_int_equal(receive(&f), cut == s.begins[whole] ? MP_EEOF : MP_ETRUNCATED);
        close_feed(&f);
    }
    close_mirror(&m);
}

/* A fault in a message is the business of that message alone. */
static void check_flipped_body(feed *f, mirror *m, const session *s, int hit)
{
    for (int i = 0; i < MESSAGES; i++) {
        int r = receive(f);

        if (i != hit)
            assert_int_equal(r, 0);
        assert_true(r == 0 || r == MP_EPROTOCOL);
        if (i != hit)
            check_same(m, &f->message, s, i);
        else if (r == 0)
            check_sound(m, &f->message);
    }
    assert_int_equal(receive(f), MP_EEOF);
}

/* After a fault in a length all may be different. */
static void check_flipped_length(feed *f, mirror *m, const session *s, int hit)
{
    int r;

    for (int i = 0; i < hit; i++) {
        assert_int_equal(receive(f), 0);
        check_same(m, &f->message, s, i);
    }
    r = receive_all(f, m, s->stream.size);
    assert_true(r == MP_EEOF || r == MP_ETRUNCATED || r == MP_ETOOLONG || r == MP_EPROTOCOL);
}

static void a_session_may_have_any_bit_flipped(void **state)
{
    static session s;
    mirror m;

    (void)state;
    support_allow(600);
    record(&s);
    open_mirror(&m);
    for (size_t bit = 0; bit < s.stream.size * 8; bit++) {
        int hit = message_at(&s, bit / 8);
        uint8_t flip = (uint8_t)(1 << bit % 8);
        feed f;

        s.stream.bytes[bit / 8] ^= flip;
        open_stream(&f, bit % 2, s.stream.bytes, s.stream.size);
        s.stream.bytes[bit / 8] ^= flip;
        if (bit / 8 < s.begins[hit] + 4)
            check_flipped_length(&f, &m, &s, hit);
        else
            check_flipped_body(&f, &m, &s, hit);
        close_feed(&f);
    }
    close_mirror(&m);
}

/* The body of a message with two handles. */
static void record_handles(text *body)
{
    mp_connection *a, *b, *x, *y;
    mp_message message = MP_MESSAGE_INIT;

    assert_int_equal(mp_pipe(&a, &b), 0);
    assert_int_equal(mp_pipe(&x, &y), 0);
    assert_int_equal(mp_connection_send(a, mp_list(x, "between", mp_dict(1, y))), 0);
    assert_int_equal(mp_connection_recv_bytes(b, &message, MP_ANY_LENGTH), 0);
    add(body, message.data, message.size);
    mp_message_clear(&message);
    mp_connection_free(a);
    mp_connection_free(b);
    mp_connection_free(x);
    mp_connection_free(y);
}

/* It may be anything, so long as using it is safe. */
static void use_connection(mp_connection *line)
{
    mp_message message = MP_MESSAGE_INIT;

    (void)mp_connection_send(line, 1);
    (void)mp_connection_send(line, line);
    if (mp_connection_poll(line, 0) == 1)
        (void)mp_connection_recv(line, &message);
    mp_message_clear(&message);
}

static void use_handles(const msgpack_object *value, mp_connection **kept)
{
    mp_connection *line = NULL;

    for (uint32_t i = 0; value->type == MSGPACK_OBJECT_ARRAY && i < value->via.array.size; i++)
        use_handles(&value->via.array.ptr[i], kept);
    for (uint32_t i = 0; value->type == MSGPACK_OBJECT_MAP && i < value->via.map.size; i++) {
        use_handles(&value->via.map.ptr[i].key, kept);
        use_handles(&value->via.map.ptr[i].val, kept);
    }
    if (mp_unpack(value, &line) < 0 || !line)
        return;
    use_connection(line);
    *kept = *kept ? *kept : mp_connection_keep(line);
}

static void handles_may_have_any_bit_flipped(void **state)
{
    int before = count_descriptors();
    text body = { .size = 0 };

    (void)state;
    support_allow(600);
    record_handles(&body);
    for (size_t bit = 0; bit < body.size * 8; bit++) {
        mp_connection *kept = NULL;
        mirror m;
        feed f;
        int r;

        open_mirror(&m);
        assert_int_equal(open_feed(&f, true), 0);
        body.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        r = offer_with_sockets(&f, body.bytes, body.size, 1);
        body.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_true(r == 0 || r == MP_EPROTOCOL);
        walk(&f.message.value, 0);
        if (bit % 2) /* passed on as they came, or after use */
            (void)mp_connection_send(m.here, f.message.value);
        use_handles(&f.message.value, &kept);
        (void)mp_connection_send(m.here, f.message.value);
        check_next(&f);
        close_feed(&f);
        close_mirror(&m);
        assert_int_equal(count_descriptors(), before + (kept ? 1 : 0));
        mp_connection_free(kept);
    }
}

/* ---- random bytes ---- */

static uint64_t dice;

static void seed(uint64_t number)
{
    const char *other = getenv("SEED");

    dice = (number + (other ? strtoull(other, NULL, 0) : 0)) * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

/* 0 to n - 1; xorshift. */
static unsigned roll(size_t n)
{
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return (unsigned)((dice >> 33) % n);
}

static unsigned roll_lead(void)
{
    return roll(2) ? 0xc0 + roll(32) : roll(2) ? 0x80 + roll(64) : roll(256);
}

/* Under valgrind and sanitizers everything takes its time. */
static void allow_fuzzing(uint64_t number)
{
    support_allow(600);
    seed(number);
}

static void add_random(text *t, size_t size)
{
    while (size--)
        add_byte(t, roll(4) ? roll_lead() : roll(6));
}

static void random_streams_end_in_errors(void **state)
{
    static text t;
    mirror m;

    (void)state;
    allow_fuzzing(1);
    open_mirror(&m);
    for (int i = 0; i < 3000; i++) {
        feed f;
        int r;

        t.size = 0;
        for (unsigned frames = roll(4); frames; frames--) {
            add_number(&t, roll(20), 4);
            add_random(&t, roll(20));
        }
        add_random(&t, roll(100));
        open_stream(&f, i % 2, t.bytes, t.size);
        r = receive_all(&f, &m, t.size);
        assert_true(r == MP_EEOF || r == MP_ETRUNCATED || r == MP_ETOOLONG || r == MP_EPROTOCOL);
        close_feed(&f);
    }
    close_mirror(&m);
}

static void random_texts_are_values_or_errors(void **state)
{
    static text t;
    mirror m;
    feed f;

    (void)state;
    allow_fuzzing(2);
    open_mirror(&m);
    assert_int_equal(open_feed(&f, true), 0);
    for (int i = 0; i < 30000; i++) {
        int r;

        t.size = 0;
        add_random(&t, 1 + roll(i % 100 ? 12 : 2000));
        r = offer(&f, t.bytes, t.size);
        assert_true(r == 0 || r == MP_EPROTOCOL);
        if (r == 0)
            check_sound(&m, &f.message);
        else
            assert_null(strstr(mp_last_error()->text, "msgpack-c"));
    }
    check_next(&f);
    close_feed(&f);
    close_mirror(&m);
}

/* A well-formed value of any kind, in any form, at most so deep. */
static void add_random_value(text *t, unsigned depth)
{
    unsigned lead = roll_lead();
    size_t count;
    int sort;

    while (sort_of(lead) == NOTHING ||
           ((sort_of(lead) == LIST || sort_of(lead) == DICT) && (depth == 0 || t->size > 5000)))
        lead = roll_lead();
    sort = sort_of(lead);
    count = add_head(t, lead, roll(4));
    if (sort == TYPED || sort == FIXED_TYPED)
        add_byte(t, roll(2) ? roll(OWN_TYPES) : 0x80 + roll(128));
    if (sort == LIST || sort == DICT)
        for (size_t i = 0; i < count * (sort == DICT ? 2 : 1); i++)
            add_random_value(t, depth - 1);
    else if (sort != ALONE)
        while (count--)
            add_byte(t, roll(256));
}

static void random_values_arrive_and_lose_no_byte(void **state)
{
    static text t;
    mirror m;
    feed f;

    (void)state;
    allow_fuzzing(3);
    open_mirror(&m);
    assert_int_equal(open_feed(&f, true), 0);
    for (int i = 0; i < 2000; i++) {
        t.size = 0;
        add_random_value(&t, roll(DEEPEST + 1));
        check_offer(&f, t.bytes, t.size, 0);
        check_sound(&m, &f.message);
        check_offer(&f, t.bytes, roll(t.size), MP_EPROTOCOL);
        add_byte(&t, roll(256));
        check_offer(&f, t.bytes, t.size, MP_EPROTOCOL);
    }
    check_next(&f);
    close_feed(&f);
    close_mirror(&m);
}

/* Overwrites, removes or repeats a few bytes somewhere. */
static void mutate(text *t)
{
    size_t at = roll(t->size), size = 1 + roll(8);

    if (size > t->size - at)
        size = t->size - at;
    switch (roll(5)) {
    case 0:
        t->bytes[at] = (uint8_t)roll_lead();
        break;
    case 1:
        memset(t->bytes + at, roll(2) ? 0xff : 0, size);
        break;
    case 2:
        memmove(t->bytes + at, t->bytes + at + size, t->size - at - size);
        t->size -= size;
        break;
    case 3:
        memmove(t->bytes + at + size, t->bytes + at, t->size - at);
        t->size += size;
        break;
    default:
        t->bytes[at] ^= (uint8_t)(1 << roll(8));
        break;
    }
    if (t->size == 0)
        add_byte(t, 0);
}

static void a_session_may_be_mutilated_at_random(void **state)
{
    static session s;
    static text t;
    mirror m;

    (void)state;
    allow_fuzzing(4);
    record(&s);
    open_mirror(&m);
    for (int i = 0; i < 4000; i++) {
        feed f;
        int r;

        t.size = 0;
        add(&t, s.stream.bytes, s.stream.size);
        for (unsigned faults = 1 + roll(8); faults; faults--)
            mutate(&t);
        open_stream(&f, i % 2, t.bytes, t.size);
        r = receive_all(&f, &m, t.size);
        assert_true(r == MP_EEOF || r == MP_ETRUNCATED || r == MP_ETOOLONG || r == MP_EPROTOCOL);
        close_feed(&f);
    }
    close_mirror(&m);
}

/* ---- memory ---- */

#define LITTLE ((size_t)8 << 20)

/* From now on this process cannot reserve much more than it has. */
static int limit_memory(size_t more)
{
    struct rlimit limit = { 0, 0 };
    FILE *file = fopen("/proc/self/statm", "re");
    unsigned long pages = 0;
    int n = file ? fscanf(file, "%lu", &pages) : 0;

    if (file)
        (void)fclose(file);
    limit.rlim_cur = limit.rlim_max = pages * (rlim_t)sysconf(_SC_PAGESIZE) + more;
    return n == 1 ? setrlimit(RLIMIT_AS, &limit) : -1;
}

static bool can_reserve(size_t size)
{
    void *memory = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory != MAP_FAILED)
        (void)munmap(memory, size);
    return memory != MAP_FAILED;
}

static int feed_once(const void *bytes, size_t size)
{
    feed f;
    int r = open_feed(&f, true) || put(f.raw, bytes, size) ? MP_EIO : 0;

    end_feed(&f);
    if (r == 0)
        r = receive(&f);
    close_feed(&f);
    return r;
}

static int feed_frame(const void *bytes, size_t size)
{
    feed f;
    int r = open_feed(&f, true) ? MP_EIO : offer(&f, bytes, size);

    close_feed(&f);
    return r;
}

/* 32 lists of 2^26 each: msgpack-c alone would reserve 64 GiB. */
static int feed_nested(void)
{
    char nested[160];

    for (size_t i = 0; i < sizeof(nested); i += 5)
        memcpy(nested + i, "\xdd\4\0\0\0", 5);
    return feed_frame(nested, sizeof(nested));
}

/* The shortest values there are: they take most memory for their bytes. */
static int feed_honest(unsigned char lead)
{
    static unsigned char honest[ROOM];

    memset(honest, 1, sizeof(honest));
    honest[0] = lead;
    honest[1] = (unsigned char)((ROOM - 3) / (lead == 0xde ? 2 : 1) >> 8);
    honest[2] = (unsigned char)((ROOM - 3) / (lead == 0xde ? 2 : 1));
    return feed_frame(honest, lead == 0xde ? ROOM - 1 : ROOM);
}

/* Answers with the number of the first thing that needs more memory than it may. */
static int receive_in_little_memory(mp_call *call)
{
    static const struct bytes announced[] = { BYTES("\x7f\xff\xff\xff"), BYTES("\x40\0\0\0abc"),
        BYTES("\xff\xff\xff\xff\0\0\0\4\0\0\0\0"), BYTES("\xff\xff\xff\xff\0\0\0\1\0\0\0\0abc") };

    (void)call;
    if (limit_memory(LITTLE) || can_reserve(LITTLE + 1))
        return 99;
    for (size_t i = 0; i < COUNT(malformed); i++)
        if (feed_frame(malformed[i].at, malformed[i].size) != MP_EPROTOCOL)
            return 100 + (int)i;
    for (size_t i = 0; i < COUNT(announced); i++)
        if (feed_once(announced[i].at, announced[i].size) !=
            (i < 2 || LONGEST > UINT32_MAX ? MP_ETRUNCATED : MP_ETOOLONG))
            return 1 + (int)i;
    if (feed_nested() != MP_EPROTOCOL)
        return 20;
    return feed_honest(0xdc) ? 21 : feed_honest(0xde) ? 22 : 0;
}

static void no_memory_is_reserved_on_a_peers_word(void **state)
{
    (void)state;
    if (HAS_ASAN || HAS_TSAN)
        skip(); /* they reserve terabytes themselves */
    assert_int_equal(finish(start_process(.target = receive_in_little_memory)), 0);
}

/* ---- children ---- */

/* What a child writes instead of a message, and what its parent gets. */
static const struct nonsense {
    struct bytes bytes;
    int code;
} nonsense[] = {
    { BYTES("\x80\0\0\0\0\0\0\0"), MP_EPROTOCOL },
    { BYTES("Segmentation fault\n"), MP_ETRUNCATED },
    { BYTES("\xde\xad\xbe\xef\xde\xad\xbe\xef"), MP_EPROTOCOL },
    { BYTES("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), MP_ETOOLONG },
    { BYTES("\0\0\0\5\xdd\xff\xff\xff\xff"), MP_EPROTOCOL },
    { BYTES("\0\0\0\1\xc1"), MP_EPROTOCOL },
    { BYTES("\0\0\0\0"), MP_EPROTOCOL },
    { BYTES("\0\0\0\5\xa5he"), MP_ETRUNCATED },
    { BYTES("\0\0"), MP_ETRUNCATED },
    { BYTES("\0\0\0\x08\xc7\5\x70\1\1\0\0\x0f"), MP_EPROTOCOL },
};

static int write_nonsense(mp_call *call)
{
    mp_connection *line;
    mp_bytes_view bytes;

    if (mp_unpack(call, &line, &bytes))
        return 99;
    return put(mp_connection_fileno(line), bytes.data, bytes.size) ? 98 : 0;
}

static void a_child_that_writes_nonsense_gives_its_parent_an_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(nonsense); i++) {
        const struct nonsense *n = &nonsense[i];
        mp_message message = MP_MESSAGE_INIT;
        mp_connection *here, *there;
        mp_process *p;

        assert_int_equal(mp_pipe(&here, &there), 0);
        p = start_process(.target = write_nonsense,
            .args = MP_ARGS(there, mp_bytes(n->bytes.at, n->bytes.size)));
        mp_connection_free(there);
        assert_int_equal(mp_connection_recv(here, &message), n->code);
        assert_int_equal(finish(p), 0);
        mp_connection_free(here);
        mp_message_clear(&message);
    }
}

/* Exits with 10 if the message was refused, or with what it says. */
static int receive_nonsense(mp_call *call)
{
    mp_message message = MP_MESSAGE_INIT;
    mp_connection *line;
    int number = 0, r;

    if (mp_unpack(call, &line))
        return 99;
    r = mp_connection_recv(line, &message);
    if (r == 0)
        r = mp_unpack(&message, &number);
    mp_message_clear(&message);
    if (r == MP_EPROTOCOL || r == MP_ETRUNCATED || r == MP_ETOOLONG)
        return 10;
    return r < 0 ? 98 : number;
}

static int exit_code_after(const void *bytes, size_t size)
{
    mp_connection *here, *there;
    mp_process *p;

    assert_int_equal(mp_pipe(&here, &there), 0);
    p = start_process(.target = receive_nonsense, .args = MP_ARGS(there));
    mp_connection_free(there);
    assert_int_equal(put(mp_connection_fileno(here), bytes, size), 0);
    mp_connection_free(here);
    return finish(p);
}

static void a_child_that_receives_nonsense_gets_an_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(nonsense); i++)
        assert_int_equal(exit_code_after(nonsense[i].bytes.at, nonsense[i].bytes.size), 10);
    assert_int_equal(exit_code_after("\0\0\0\1\x2a", 5), 42);
    assert_int_equal(exit_code_after("\0\0\0\3\xa2no", 7), 98);
}

static const struct CMUnitTest tests[] = {
    ONCE(negative_lengths_break_the_stream_for_good),
    ONCE(a_broken_connection_still_sends_but_does_not_travel),
    ONCE(a_frame_may_be_cut_at_each_byte),
    ONCE(the_long_form_brings_values_of_any_size),
    ONCE(a_huge_length_is_an_error_and_stays_pending),
    ONCE(a_length_below_the_limit_is_waited_for_whatever_it_is),
    ONCE(a_message_above_the_limit_waits_for_another_limit),
    ONCE(an_empty_frame_is_no_value_but_is_bytes),
    ONCE(malformed_texts_end_one_message_each),
    ONCE(a_value_of_each_kind_may_be_cut_at_each_byte),
    ONCE(lengths_beyond_the_end_are_refused_for_each_kind),
    ONCE(lists_and_dicts_may_be_32_deep_and_no_deeper),
    ONCE(depth_bombs_are_refused),
    ONCE(a_lower_limit_of_depth_is_kept),
    ONCE(more_values_than_the_limit_allows_are_refused),
    ONCE(numbers_in_wider_forms_than_they_need_arrive),
    ONCE(the_largest_unsigned_number_is_not_minus_one),
    ONCE(text_may_hold_any_bytes_but_nul_only_fits_a_view),
    ONCE(empty_values_arrive_in_each_form),
    ONCE(a_key_may_be_anything_and_be_there_twice),
    ONCE(extensions_of_the_program_arrive_in_each_form),
    ONCE(a_handle_of_no_known_kind_is_not_taken_for_another),
    ONCE(handles_have_up_to_4_descriptors_and_256_bytes_of_state),
    ONCE(a_malformed_connection_is_an_error_when_it_is_unpacked),
    ONCE(handles_that_name_the_same_descriptor_get_it_once),
    ONCE(a_connection_that_lies_about_its_descriptor_gives_errors),
    ONCE(a_session_may_be_cut_at_each_byte),
    ONCE(a_session_may_have_any_bit_flipped),
    ONCE(handles_may_have_any_bit_flipped),
    ONCE(random_streams_end_in_errors),
    ONCE(random_texts_are_values_or_errors),
    ONCE(random_values_arrive_and_lose_no_byte),
    ONCE(a_session_may_be_mutilated_at_random),
    UNDER(no_memory_is_reserved_on_a_peers_word, "fork"),
    UNDER_EACH(a_child_that_writes_nonsense_gives_its_parent_an_error),
    UNDER_EACH(a_child_that_receives_nonsense_gets_an_error),
};

TESTS_MAIN(tests)
