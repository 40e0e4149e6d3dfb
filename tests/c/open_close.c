/* Opening says what is wrong in words; closing leaves nothing behind. */
#include "lab.h"

#include <dirent.h>

/* ThreadSanitizer has a thread of its own, from the first other one on. */
#ifdef __SANITIZE_THREAD__
#define ALONE 2
#else
#define ALONE 1
#endif

static int threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;

    CHECK(tasks);
    while (readdir(tasks)) {
        count++;
    }
    closedir(tasks);
    return count - 2;
}

static int files(void)
{
    DIR *open = opendir("/proc/self/fd");
    int count = 0;

    CHECK(open);
    while (readdir(open)) {
        count++;
    }
    closedir(open);
    return count;
}

/* Those that only have to return may do so in their own time. */
static int threads_that_stay(void)
{
    int tries;

    for (tries = 0; threads() > ALONE && tries < 2000; tries++) {
        usleep(1000);
    }
    return threads();
}

static int open_with(const char *first, const char *second, uint32_t flags)
{
    const char *options[] = { first, second, NULL };
    archipelago_volume *volume = NULL;
    int result;

    lab_error[0] = 0;
    result = archipelago_open(options, flags, &volume, ERROR);
    CHECK((result == 0) == (volume != NULL));
    CHECK((result == 0) == (lab_error[0] == 0));
    archipelago_close(volume);
    return result;
}

static void words(void)
{
    const char *options[] = { "volume=nobody", NULL };
    archipelago_volume *volume;
    char small[8];

    SAME(open_with("volume=nobody", NULL, 0), -ENOENT);
    SAYS("nobody");
    SAYS("archipelago ls");
    SAME(open_with("volume=a", "snapshot=never", 0), -ENOENT);
    SAYS("never");
    SAME(open_with("volume=a", "store=elsewhere", 0), -ENOENT);
    SAYS("elsewhere");
    SAME(open_with("volume=a", "config=/nowhere/at/all", 0), -ENOENT);
    SAYS("/nowhere/at/all");
    SAME(open_with("volume=.hidden", NULL, 0), -EINVAL);
    SAYS(".hidden");
    SAME(open_with("volume=a/b", NULL, 0), -EINVAL);
    SAME(open_with("volume=\xff", NULL, 0), -EINVAL);
    SAME(open_with("volume=", NULL, 0), -EINVAL);
    SAME(open_with("colour=red", NULL, 0), -EINVAL);
    SAYS("colour");
    SAME(open_with("volume", NULL, 0), -EINVAL);
    SAYS("key=value");
    SAME(open_with("volume=a", "volume=b", 0), -EINVAL);
    SAYS("twice");
    SAME(open_with(NULL, NULL, 0), -EINVAL);
    SAYS("volume=");
    SAME(open_with("volume=a", NULL, 0x8000), -EINVAL);
    SAYS("0x8000");
    SAME(archipelago_open(NULL, 0, &volume, ERROR), -EINVAL);
    SAME(archipelago_open(options, 0, NULL, ERROR), -EINVAL);

    /* No room, or little, for the words. */
    SAME(archipelago_open(options, 0, &volume, NULL, 0), -ENOENT);
    memset(small, 'x', sizeof small);
    SAME(archipelago_open(options, 0, &volume, small, 4), -ENOENT);
    CHECK(strlen(small) == 3 && small[4] == 'x');
    SAME(archipelago_open(options, 0, &volume, small, 0), -ENOENT);
}

int main(void)
{
    archipelago_volume *volume;
    int before, round;

    SAME(threads(), 1);
    CHECK(strncmp(archipelago_version(), "0.", 2) == 0);
    SAME(lab_create("a", 10 * BLOCK, NULL), 0);
    words();
    archipelago_close(NULL);
    /* What the library keeps for the process is there after the first. */
    archipelago_close(lab_open("a", 0));
    SAME(threads_that_stay(), ALONE);
    before = files();
    for (round = 0; round < 10; round++) {
        volume = lab_open("a", 0);
        CHECK(threads() > ALONE);
        SAME(lab_put(volume, (uint64_t)round * BLOCK, BLOCK, 1), 0);
        archipelago_close(volume);
        SAME(threads_that_stay(), ALONE);
    }
    SAME(files(), before);
    return 0;
}
