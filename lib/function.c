/* SPDX-License-Identifier: MIT
 *
 * function.c - functions by module and offset. The receiver's module must have
 * the same build-id (or, without one, the same code), so that an offset never
 * leads into other code.
 */
#include "function_internal.h"

#include <dlfcn.h>
#include <link.h>
#include <stdbool.h>
#include <string.h>

#include "error_internal.h"

#ifndef NT_GNU_BUILD_ID
#define NT_GNU_BUILD_ID 3
#endif

/* Where a module came from: without dlopen in the program this is NULL. */
#pragma weak dlopen
#pragma weak dlerror

typedef struct dl_phdr_info module;

static const uint8_t *segment_start(const module *m, const ElfW(Phdr) * segment)
{
    return (const uint8_t *)(m->dlpi_addr + segment->p_vaddr); /* the loader's own arithmetic */
}

static bool holds_code(const module *m, uint64_t offset)
{
    for (int i = 0; i < m->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &m->dlpi_phdr[i];

        if (segment->p_type == PT_LOAD && segment->p_flags & PF_X && offset >= segment->p_vaddr &&
            offset - segment->p_vaddr < segment->p_memsz)
            return true;
    }
    return false;
}

static size_t padded(size_t size)
{
    return (size + 3) & ~(size_t)3;
}

/* The build-id among the notes of a segment. */
static bool build_id(const uint8_t *notes, size_t size, mp__function *out)
{
    ElfW(Nhdr) note;

    while (size >= sizeof(note)) {
        size_t name, description;

        memcpy(&note, notes, sizeof(note));
        name = padded(note.n_namesz);
        description = padded(note.n_descsz);
        if (name > size - sizeof(note) || description > size - sizeof(note) - name)
            return false;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
            memcmp(notes + sizeof(note), "GNU", 4) == 0 && note.n_descsz <= MP__IDENTITY_MAX) {
            memcpy(out->identity, notes + sizeof(note) + name, note.n_descsz);
            out->identity_size = note.n_descsz;
            return true;
        }
        notes += sizeof(note) + name + description;
        size -= sizeof(note) + name + description;
    }
    return false;
}

/* FNV-1a over all code: slow for a big module, so one answer is kept. */
static uint64_t hash_code(const module *m)
{
    static _Thread_local struct {
        const void *headers;
        uint64_t hash;
    } known;
    uint64_t hash = UINT64_C(14695981039346656037);

    if (known.headers == m->dlpi_phdr)
        return known.hash;
    for (int i = 0; i < m->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &m->dlpi_phdr[i];
        const uint8_t *bytes = segment_start(m, segment);

        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X))
            continue;
        for (size_t at = 0; at < segment->p_filesz; at++)
            hash = (hash ^ bytes[at]) * UINT64_C(1099511628211);
    }
    known.headers = m->dlpi_phdr;
    known.hash = hash;
    return hash;
}

static void identify(const module *m, mp__function *out)
{
    uint64_t hash;

    for (int i = 0; i < m->dlpi_phnum; i++)
        if (m->dlpi_phdr[i].p_type == PT_NOTE &&
            build_id(segment_start(m, &m->dlpi_phdr[i]), m->dlpi_phdr[i].p_memsz, out))
            return;
    hash = hash_code(m);
    memcpy(out->identity, &hash, sizeof(hash));
    out->identity_size = sizeof(hash);
}

typedef struct {
    uintptr_t address;          /* looked for, or found */
    mp__function *description;  /* to be filled in */
    const mp__function *wanted; /* to be found */
    bool first;                 /* the program itself comes first, whatever its name */
    int result;
} search;

static const char *module_name(const search *s, const module *m)
{
    return s->first || !m->dlpi_name ? "" : m->dlpi_name;
}

static int describe_in(struct dl_phdr_info *m, size_t size, void *argument)
{
    search *s = argument;
    uint64_t offset = s->address - m->dlpi_addr;

    (void)size;
    if (!holds_code(m, offset)) {
        s->first = false;
        return 0;
    }
    s->result = 0;
    s->description->module = module_name(s, m);
    s->description->offset = offset;
    identify(m, s->description);
    return 1;
}

int mp__function_describe(void (*function)(void), mp__function *description)
{
    search s = { .address = (uintptr_t)function,
        .description = description,
        .first = true,
        .result = MP_EFUNCTION };

    (void)dl_iterate_phdr(describe_in, &s);
    if (s.result < 0)
        return mp__fail(MP_EFUNCTION,
            "%p is not a function of this program or of one of its "
            "shared libraries, so a child cannot find it",
            (void *)s.address);
    return 0;
}

static int note_unloads(struct dl_phdr_info *m, size_t size, void *argument)
{
    (void)size; /* as large as that since glibc 2.4, and everywhere else */
    *(unsigned long long *)argument = m->dlpi_subs;
    return 1;
}

unsigned long long mp__function_unloads(void)
{
    unsigned long long unloads = 0;

    (void)dl_iterate_phdr(note_unloads, &unloads);
    return unloads;
}

static int find_in(struct dl_phdr_info *m, size_t size, void *argument)
{
    search *s = argument;
    bool here = strcmp(module_name(s, m), s->wanted->module) == 0;
    mp__function own = { .offset = 0 };

    (void)size;
    s->first = false;
    if (!here)
        return 0;
    identify(m, &own);
    if (own.identity_size != s->wanted->identity_size ||
        memcmp(own.identity, s->wanted->identity, own.identity_size) != 0)
        s->result = mp__fail(MP_EFUNCTION,
            "%s is another build here than in the parent, so the "
            "function is not called; start the program anew",
            *s->wanted->module ? s->wanted->module : "the program");
    else if (!holds_code(m, s->wanted->offset))
        s->result = mp__fail(MP_EFUNCTION, "the function is not in the code of %s",
            *s->wanted->module ? s->wanted->module : "the program");
    else
        s->result = 0;
    s->address = m->dlpi_addr + (uintptr_t)s->wanted->offset;
    return 1;
}

static int search_modules(const mp__function *description, uintptr_t *address)
{
    search s = { .wanted = description, .first = true, .result = 1 };

    (void)dl_iterate_phdr(find_in, &s);
    *address = s.address;
    return s.result;
}

int mp__function_find(const mp__function *description, void (**function)(void))
{
    uintptr_t address = 0;
    int r = search_modules(description, &address);

    if (r > 0 && dlopen && dlopen(description->module, RTLD_NOW))
        r = search_modules(description, &address);
    if (r > 0)
        r = mp__fail(MP_EFUNCTION, "the shared library %s cannot be loaded here: %s",
            description->module, dlopen ? dlerror() : "the program is static");
    if (r < 0)
        return r;
    *function = (void (*)(void))address;
    return 0;
}

int mp__function_encode(const mp__function *d, mp__buffer *bytes)
{
    uint64_t numbers[2] = { d->offset, d->identity_size };
    size_t before = bytes->size;
    int r = mp__buffer_append(bytes, numbers, sizeof(numbers));

    if (r == 0)
        r = mp__buffer_append(bytes, d->identity, d->identity_size);
    if (r == 0)
        r = mp__buffer_append(bytes, d->module, strlen(d->module) + 1);
    if (r < 0)
        bytes->size = before;
    return r;
}

int mp__function_decode(const void *data, size_t size, mp__function *d)
{
    const char *at = data;
    uint64_t numbers[2];

    if (size < sizeof(numbers))
        return mp__fail(MP_EPROTOCOL, "malformed function in a message");
    memcpy(numbers, at, sizeof(numbers));
    size -= sizeof(numbers);
    at += sizeof(numbers);
    if (numbers[1] > MP__IDENTITY_MAX || numbers[1] >= size || at[size - 1] != '\0')
        return mp__fail(MP_EPROTOCOL, "malformed function in a message");
    d->offset = numbers[0];
    d->identity_size = (size_t)numbers[1];
    memcpy(d->identity, at, d->identity_size);
    d->module = at + d->identity_size;
    return 0;
}
