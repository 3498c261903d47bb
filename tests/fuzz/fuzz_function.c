/* SPDX-License-Identifier: MIT
 *
 * fuzz_function.c - what tells a child which function it is to call. No module is
 * loaded here: its name would be any.
 */
#include "fuzz.h"

#include "function_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mp__function function;
    mp__buffer again = { 0 };

    if (mp__function_decode(data, size, &function) == 0) {
        must(mp__function_encode(&function, &again) == 0);
        read_through(again.data, again.size);
        mp__buffer_done(&again);
    }
    return 0;
}
