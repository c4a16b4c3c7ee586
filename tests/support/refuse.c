/* Runs a program under a kernel that lacks something: a filter refuses system calls with the error
 * that an older kernel, or a container engine's filter, would give.
 *
 *   refuse RULE... -- PROGRAM ARGUMENTS...
 *
 * NUMBER:ERRNO            the call fails
 * NUMBER:ERRNO:ARG:BITS   it fails where one of these bits is set in that argument
 * NUMBER:ERRNO:ARG=VALUE  it fails where that argument is this
 * key=NAME:ERRNO          fsconfig(2) fails for this key; answered by this process
 * late=NAME:ERRNO         it takes the key, and fails where the file system is then made of it
 * fs=NAME:ERRNO           fsopen(2) fails for this kind of file system; likewise
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define FSOPEN 430
#define FSCONFIG 431
#define CREATE 6
#define RULES 64

static struct sock_filter code[8 * RULES + 8];
static unsigned short length;
static struct { char *name; int error, is_late, is_kind; } keys[RULES];
static int key_count;

static void add(unsigned short what, uint32_t value, uint8_t yes, uint8_t no) {
    code[length++] = (struct sock_filter){what, yes, no, value};
}

static void load(uint32_t offset) { add(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0); }

static void give(uint32_t value) { add(BPF_RET | BPF_K, value, 0, 0); }

static long install(unsigned flags) {
    struct sock_fprog program = {length, code};
    if (geteuid() != 0) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

/* The context that a late key was given to last. */
static struct { pid_t pid; uint64_t descriptor; int error; } spoilt;

static int error_for(pid_t pid, uint64_t descriptor, uint64_t address, int is_kind) {
    char name[64] = "";
    struct iovec local = {name, sizeof name - 1}, remote = {(void *)address, sizeof name - 1};
    /* A name may end close to a page's end. */
    while (local.iov_len && process_vm_readv(pid, &local, 1, &remote, 1, 0) < 0)
        local.iov_len = remote.iov_len = local.iov_len / 2;
    for (int i = 0; i < key_count; i++)
        if (keys[i].is_kind == is_kind && !strcmp(name, keys[i].name)) {
            if (!keys[i].is_late) return keys[i].error;
            spoilt.pid = pid, spoilt.descriptor = descriptor, spoilt.error = keys[i].error;
        }
    return 0;
}

static void answer(int listener) {
    struct seccomp_notif question;
    for (;;) {
        memset(&question, 0, sizeof question);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &question) < 0) {
            if (errno == EINTR || errno == ENOENT) continue;
            return;
        }
        uint64_t *a = (uint64_t *)question.data.args;
        int is_open = question.data.nr == FSOPEN, error = 0;
        if (is_open) error = error_for(question.pid, 0, a[0], 1);
        else if (a[2]) error = error_for(question.pid, a[0], a[2], 0);
        if (!is_open && a[1] == CREATE && spoilt.pid == (pid_t)question.pid && spoilt.descriptor == a[0]) {
            error = spoilt.error;
            spoilt.pid = 0;
        }
        struct seccomp_notif_resp response = {question.id, 0, -error,
                                              error ? 0 : SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
    }
}

int main(int count, char **words) {
    int at = 1;
    load(offsetof(struct seccomp_data, nr));
    for (; at < count && strcmp(words[at], "--"); at++) {
        unsigned number, error, argument, bits;
        int is_late = !strncmp(words[at], "late=", 5), is_kind = !strncmp(words[at], "fs=", 3);
        if (is_late || is_kind || !strncmp(words[at], "key=", 4)) {
            char *colon = strrchr(words[at], ':');
            *colon = 0;
            keys[key_count].is_late = is_late;
            keys[key_count].is_kind = is_kind;
            keys[key_count].name = strchr(words[at], '=') + 1;
            keys[key_count++].error = atoi(colon + 1);
            continue;
        }
        if (sscanf(words[at], "%u:%u:%u=%u", &number, &error, &argument, &bits) == 4) {
            add(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4);
            load(offsetof(struct seccomp_data, args) + 8 * argument);
            add(BPF_JMP | BPF_JEQ | BPF_K, bits, 0, 1);
            give(SECCOMP_RET_ERRNO | error);
            load(offsetof(struct seccomp_data, nr));
            continue;
        }
        switch (sscanf(words[at], "%u:%u:%u:%u", &number, &error, &argument, &bits)) {
        case 2:
            add(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1);
            give(SECCOMP_RET_ERRNO | error);
            break;
        case 4:
            add(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4);
            load(offsetof(struct seccomp_data, args) + 8 * argument);
            add(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
            give(SECCOMP_RET_ERRNO | error);
            load(offsetof(struct seccomp_data, nr));
            break;
        default:
            fprintf(stderr, "refuse: bad rule %s\n", words[at]);
            return 125;
        }
    }
    char **program = words + at + 1;
    if (key_count) {
        add(BPF_JMP | BPF_JEQ | BPF_K, FSOPEN, 1, 0);
        add(BPF_JMP | BPF_JEQ | BPF_K, FSCONFIG, 0, 1);
        give(SECCOMP_RET_USER_NOTIF);
    }
    give(SECCOMP_RET_ALLOW);
    if (!key_count) {
        if (install(0) < 0) return perror("refuse: seccomp"), 125;
        execvp(program[0], program);
        return perror("refuse: exec"), 125;
    }
    int line[2], listener, status;
    if (pipe(line) < 0) return 125;
    /* It shares the table of descriptors until it becomes another program. */
    pid_t child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        listener = install(SECCOMP_FILTER_FLAG_NEW_LISTENER);
        write(line[1], &listener, sizeof listener);
        if (listener < 0) _exit(125);
        execvp(program[0], program);
        _exit(125);
    }
    if (read(line[0], &listener, sizeof listener) != sizeof listener || listener < 0) return 125;
    close(line[0]);
    close(line[1]);
    pid_t answering = fork();
    if (answering == 0) {
        for (int i = 0; i < 3; i++) close(i);
        answer(listener);
        _exit(0);
    }
    close(listener);
    waitpid(child, &status, 0);
    kill(answering, SIGKILL);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
