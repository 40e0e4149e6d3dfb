/* SPDX-License-Identifier: MIT
 *
 * The sandbox that libvirt asks QEMU for (obsolete, elevateprivileges, spawn and
 * resourcecontrol denied), for a QEMU that was built without it: loaded before
 * main, it has the kernel end the process at the first call of these.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define DATA(field) ((__u32)offsetof(struct seccomp_data, field))
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, DATA(field))
#define END(action) BPF_STMT(BPF_RET | BPF_K, (action))
#define DENY(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (call), 0, 1), END(SECCOMP_RET_KILL_PROCESS)

static struct sock_filter rules[] = {
    LOAD(nr),
    DENY(SYS_fork), DENY(SYS_vfork), DENY(SYS_execve), DENY(SYS_execveat),
    DENY(SYS_setuid), DENY(SYS_setgid), DENY(SYS_setpgid), DENY(SYS_setsid),
    DENY(SYS_setreuid), DENY(SYS_setregid), DENY(SYS_setresuid), DENY(SYS_setresgid),
    DENY(SYS_setfsuid), DENY(SYS_setfsgid), DENY(SYS_setgroups), DENY(SYS_unshare), DENY(SYS_setns),
    DENY(SYS_setpriority), DENY(SYS_sched_setparam), DENY(SYS_sched_setscheduler),
    DENY(SYS_sched_setaffinity), DENY(SYS_sched_setattr), DENY(SYS_setrlimit), DENY(SYS_ioprio_set),
    DENY(SYS_mount), DENY(SYS_umount2), DENY(SYS_reboot), DENY(SYS_swapon), DENY(SYS_swapoff),
    /* The C library starts threads with clone then, whose flags can be looked at. */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1), END(SECCOMP_RET_ERRNO | ENOSYS),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
    LOAD(args[0]),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0), END(SECCOMP_RET_KILL_PROCESS),
    END(SECCOMP_RET_ALLOW),
};

__attribute__((constructor)) static void enter(void)
{
    struct sock_fprog program = { sizeof rules / sizeof rules[0], rules };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        perror("sandbox");
        exit(1);
    }
}
