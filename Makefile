# SPDX-License-Identifier: MIT
#
# make deps demo    install what is missing, build, count the words of real files
# make deps test    the same, and run all tests
# make              the libraries, in build/
#
# Variants have build folders of their own: SAN=address|undefined|thread,
# OS=posix (the portable twins instead of the Linux ones), CC=clang, WERROR=1.

OS ?= linux
SAN ?=
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
VERSION := 0.1.0
SONAME := libmultiprocessing.so.0

ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(OS)$(SAN)$(CC),linuxgcc)
B := build
else
comma := ,
B := build/$(OS)-$(notdir $(firstword $(CC)))$(if $(SAN),-$(subst $(comma),-,$(SAN)))
endif

CFLAGS ?= -O2 -g
WARNINGS := -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes \
	-Wmissing-prototypes $(if $(WERROR),-Werror)
SANITIZE := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer)

# Looked up when a recipe runs, so that "make deps test" finds what deps has installed.
MSGPACK = $(shell pkg-config --exists 'msgpack-c >= 4' 2>/dev/null && echo msgpack-c || echo msgpack)
MSGPACK_CFLAGS = $(shell pkg-config --cflags $(MSGPACK))
MSGPACK_LIBS = $(shell pkg-config --libs $(MSGPACK))
CMOCKA_CFLAGS = $(shell pkg-config --cflags cmocka)
CMOCKA_LIBS = $(shell pkg-config --libs cmocka)

COMPILE = $(CC) -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 $(WARNINGS) $(CFLAGS) $(SANITIZE) -pthread -MMD -MP -Iinclude
LINK = $(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -pthread

OTHER := $(if $(filter posix,$(OS)),linux,posix)
SOURCES := $(filter-out lib/%_$(OTHER).c,$(wildcard lib/*.c))
OBJECTS := $(SOURCES:lib/%.c=$(B)/lib/%.o)
SHARED := $(SOURCES:lib/%.c=$(B)/shared/%.o)
TESTS := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/test_*.c))
PROGRAMS := $(patsubst tests/programs/%.c,$(B)/tests/programs/%,$(wildcard tests/programs/*.c))
EXAMPLES := $(patsubst examples/%.c,$(B)/examples/%,$(wildcard examples/*.c))
BENCHES := $(patsubst bench/bench_%.c,$(B)/bench/bench_%,$(wildcard bench/bench_*.c))
STATIC_LIB := $(B)/libmultiprocessing.a
SHARED_LIB := $(B)/libmultiprocessing.so.$(VERSION)

.PHONY: all deps demo test check fuzz fuzzers examples bench format format-check lint install uninstall clean
.DELETE_ON_ERROR:
.SECONDARY:

all: $(STATIC_LIB) $(SHARED_LIB) $(EXAMPLES)

# With deps among the goals nothing is compiled before it is done.
ifneq ($(filter deps,$(MAKECMDGOALS)),)
BEFORE := deps
endif

deps:
	@sh tests/deps.sh

$(OBJECTS): $(B)/lib/%.o: lib/%.c Makefile | $(BEFORE)
	@mkdir -p $(@D)
	$(COMPILE) -fvisibility=hidden -fno-plt -Ilib $(MSGPACK_CFLAGS) -c $< -o $@

$(SHARED): $(B)/shared/%.o: lib/%.c Makefile | $(BEFORE)
	@mkdir -p $(@D)
	$(COMPILE) -fvisibility=hidden -fno-plt -fPIC -Ilib $(MSGPACK_CFLAGS) -c $< -o $@

$(STATIC_LIB): $(OBJECTS)
	@rm -f $@
	$(AR) rcs $@ $^

$(SHARED_LIB): $(SHARED)
	$(LINK) -shared -Wl,-soname,$(SONAME) $(if $(SAN),,-Wl,-z,defs) $^ -o $@ $(MSGPACK_LIBS)
	@ln -sf $(@F) $(B)/$(SONAME)
	@ln -sf $(SONAME) $(B)/libmultiprocessing.so

$(B)/tests/support.o: tests/support.c Makefile | $(BEFORE)
	@mkdir -p $(@D)
	$(COMPILE) -Ilib -Itests $(MSGPACK_CFLAGS) $(CMOCKA_CFLAGS) -c $< -o $@

$(TESTS): $(B)/tests/%: tests/%.c $(B)/tests/support.o $(STATIC_LIB)
	$(COMPILE) -Ilib -Itests $(MSGPACK_CFLAGS) $(CMOCKA_CFLAGS) $(LDFLAGS) $< $(B)/tests/support.o \
	    $(STATIC_LIB) -o $@ $(CMOCKA_LIBS) $(MSGPACK_LIBS) -lm

$(PROGRAMS): $(B)/tests/programs/%: tests/programs/%.c $(STATIC_LIB)
	@mkdir -p $(@D)
	$(COMPILE) $(MSGPACK_CFLAGS) $(LDFLAGS) $< $(STATIC_LIB) -o $@ $(MSGPACK_LIBS)

$(EXAMPLES): $(B)/examples/%: examples/%.c $(STATIC_LIB)
	@mkdir -p $(@D)
	$(COMPILE) $(MSGPACK_CFLAGS) $(LDFLAGS) $< $(STATIC_LIB) -o $@ $(MSGPACK_LIBS)

$(BENCHES): $(B)/bench/%: bench/%.c $(STATIC_LIB)
	@mkdir -p $(@D)
	$(COMPILE) -Ibench $(MSGPACK_CFLAGS) $(LDFLAGS) $< $(STATIC_LIB) -o $@ $(MSGPACK_LIBS)

# The main job on real input: the words of the system's C headers, or of FOLDER.
FOLDER ?= /usr/include
demo: $(B)/examples/word_count
	$(B)/examples/word_count $(FOLDER)

test: $(TESTS) $(PROGRAMS) $(EXAMPLES) $(SHARED_LIB)
	@B=$(B) CC="$(CC)" SAN="$(SAN)" sh tests/run.sh $(TESTS)

check: test

# With clang's libFuzzer; so long for each.
FUZZ ?= -max_total_time=60
FUZZERS := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(wildcard tests/fuzz/*.c))
$(FUZZERS): $(B)/fuzz/%: tests/fuzz/%.c $(STATIC_LIB)
	@mkdir -p $(@D)
	$(COMPILE) -Ilib -fsanitize=fuzzer $(MSGPACK_CFLAGS) $(LDFLAGS) $< $(STATIC_LIB) -o $@ $(MSGPACK_LIBS)

fuzz:
	$(MAKE) CC=clang SAN=fuzzer-no-link,address,undefined fuzzers

fuzzers: $(FUZZERS)
	@sh tests/fuzz/run.sh "$(FUZZ)" $(FUZZERS)

examples: $(EXAMPLES)
	@sh tests/check_examples.sh $(B)

bench: $(BENCHES)
	@for b in $(BENCHES); do echo "== $$b"; $$b $(ARGS) || exit 1; done

FORMATTED = $(shell git ls-files '*.c' '*.h' 2>/dev/null)
format:
	clang-format -i $(FORMATTED)
format-check:
	clang-format --dry-run -Werror $(FORMATTED)

# Checks that are mistaken about correct code: va_start, and results that say what is not NULL.
DOUBTFUL := -clang-analyzer-security.insecureAPI.*,-clang-analyzer-valist.Uninitialized,-clang-analyzer-core.NullDereference
lint:
	cppcheck --std=c11 --enable=warning,portability --error-exitcode=1 --quiet \
	    --suppress=internalAstError --suppress=nullPointerRedundantCheck \
	    -D__linux__ -D__GLIBC__ -D__GNUC__ -Iinclude -Ilib $(SOURCES)
	printf '%s\n' $(SOURCES) | xargs -P 2 -n 8 sh -c 'clang-tidy --quiet --warnings-as-errors="*" \
	    --checks="-*,clang-analyzer-*,$(DOUBTFUL),bugprone-use-after-move" \
	    "$$@" -- -std=c11 -D_GNU_SOURCE -Iinclude -Ilib $(MSGPACK_CFLAGS)' tidy

install: $(STATIC_LIB) $(SHARED_LIB)
	mkdir -p $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(PREFIX)/include/multiprocessing
	install -m 644 $(STATIC_LIB) $(DESTDIR)$(LIBDIR)/
	install -m 755 $(SHARED_LIB) $(DESTDIR)$(LIBDIR)/
	ln -sf $(notdir $(SHARED_LIB)) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libmultiprocessing.so
	install -m 644 include/multiprocessing.h $(DESTDIR)$(PREFIX)/include/
	install -m 644 include/multiprocessing/*.h $(DESTDIR)$(PREFIX)/include/multiprocessing/
	printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$(LIBDIR)' 'includedir=$${prefix}/include' '' \
	    'Name: multiprocessing' "Description: Python's multiprocessing for C programs" \
	    'Version: $(VERSION)' 'Requires: $(MSGPACK)' 'Cflags: -I$${includedir}' \
	    'Libs: -L$${libdir} -lmultiprocessing' 'Libs.private: -pthread' \
	    > $(DESTDIR)$(LIBDIR)/pkgconfig/multiprocessing.pc

uninstall:
	rm -f $(DESTDIR)$(LIBDIR)/libmultiprocessing.a $(DESTDIR)$(LIBDIR)/libmultiprocessing.so*
	rm -f $(DESTDIR)$(LIBDIR)/pkgconfig/multiprocessing.pc $(DESTDIR)$(PREFIX)/include/multiprocessing.h
	rm -rf $(DESTDIR)$(PREFIX)/include/multiprocessing

clean:
	rm -rf build

-include $(OBJECTS:.o=.d) $(SHARED:.o=.d) $(TESTS:=.d) $(PROGRAMS:=.d) $(EXAMPLES:=.d) $(FUZZERS:=.d) \
    $(BENCHES:=.d) $(B)/tests/support.d
