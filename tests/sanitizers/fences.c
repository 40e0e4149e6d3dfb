/* ThreadSanitizer's runtime does not know fences. What counts a reference down lets it
 * go with "release" and takes a fence to "acquire" before the last one frees: without
 * the fence each such end looks like a race. So a fence that acquires is told, here, as
 * an acquire of what this thread's last atomics of 64 bits were on. That is no more than
 * what the language says of it. The linker's --wrap leads here. */
#include <stdint.h>

#define REMEMBERED 4u /* a power of two */

void __tsan_acquire(void *address);

static __thread void *seen[REMEMBERED];
static __thread unsigned next;

static void remember(const volatile void *address)
{
    if (seen[(next - 1) % REMEMBERED] != address) {
        seen[next++ % REMEMBERED] = (void *)address;
    }
}

uint64_t __real___tsan_atomic64_fetch_sub(volatile uint64_t *to, uint64_t value, int order);
uint64_t __wrap___tsan_atomic64_fetch_sub(volatile uint64_t *to, uint64_t value, int order);
uint64_t __wrap___tsan_atomic64_fetch_sub(volatile uint64_t *to, uint64_t value, int order)
{
    remember(to);
    return __real___tsan_atomic64_fetch_sub(to, value, order);
}

uint64_t __real___tsan_atomic64_compare_exchange_val(volatile uint64_t *to, uint64_t had, uint64_t value,
                                                     int order, int failed);
uint64_t __wrap___tsan_atomic64_compare_exchange_val(volatile uint64_t *to, uint64_t had, uint64_t value,
                                                     int order, int failed);
uint64_t __wrap___tsan_atomic64_compare_exchange_val(volatile uint64_t *to, uint64_t had, uint64_t value,
                                                     int order, int failed)
{
    remember(to);
    return __real___tsan_atomic64_compare_exchange_val(to, had, value, order, failed);
}

void __real___tsan_atomic_thread_fence(int order);
void __wrap___tsan_atomic_thread_fence(int order);
void __wrap___tsan_atomic_thread_fence(int order)
{
    unsigned at;

    __real___tsan_atomic_thread_fence(order);
    for (at = 0; order != __ATOMIC_RELEASE && at < REMEMBERED; at++) {
        if (seen[at]) {
            __tsan_acquire(seen[at]);
            seen[at] = 0;
        }
    }
}
