/* What a hostile step does to its sandbox, one attack per word on the command line. Each prints what
 * the kernel, or whoever answers for it, said; the tests decide what that had to be.
 *
 * Linked statically: it runs in a root file system without libraries. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

/* As the kernel gets it, whatever the C library thinks of the arguments. */
#define chown(path, uid, gid) syscall(SYS_chown, path, uid, gid)
#define setxattr(path, name, value, length, flags) \
    syscall(SYS_setxattr, path, name, value, length, flags)

#define NOTE "user.containers.override_stat"
#define FORGED "4242:4242:04755:char-1-1"

static const char *name_of(long result) {
    if (result >= 0) return "done";
    switch (errno) {
    case EPERM: return "EPERM";
    case EACCES: return "EACCES";
    case ENOSYS: return "ENOSYS";
    case EFAULT: return "EFAULT";
    case ENOENT: return "ENOENT";
    case EBADF: return "EBADF";
    case EROFS: return "EROFS";
    case ENAMETOOLONG: return "ENAMETOOLONG";
    case ENODATA: return "ENODATA";
    case EBUSY: return "EBUSY";
    case ENOTSUP: return "ENOTSUP";
    case ESRCH: return "ESRCH";
    case EXDEV: return "EXDEV";
    case ELOOP: return "ELOOP";
    case EINVAL: return "EINVAL";
    default: return strerror(errno);
    }
}

static void say(const char *what, long result) { printf("%s %s\n", what, name_of(result)); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

#ifdef __x86_64__
/* A call as a 32-bit program makes it. */
static long old_call(long number, long a, long b, long c, long d, long e) {
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                     : "memory", "r8", "r9", "r10", "r11");
    result = (int)result;
    if (result < 0 && result > -4096) {
        errno = -result;
        return -1;
    }
    return result;
}

/* Memory that such a program could name. */
static char *low_copy(const char *text) {
    char *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    strcpy(low, text);
    return low;
}
#endif

/* Every call that could write or remove the note on a file's owner. */
static void forge(const char *path) {
    struct { uint64_t value; uint32_t size, flags; } args = {(uint64_t)FORGED, strlen(FORGED), 0};
    size_t length = strlen(FORGED);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    int weak = open(path, O_PATH | O_CLOEXEC);
    char through[64];
    say("setxattr", setxattr(path, NOTE, FORGED, length, 0));
    say("lsetxattr", lsetxattr(path, NOTE, FORGED, length, 0));
    say("fsetxattr", fsetxattr(fd, NOTE, FORGED, length, 0));
    say("setxattr-create", setxattr(path, NOTE, FORGED, length, XATTR_CREATE));
    say("setxattrat", syscall(463, AT_FDCWD, path, 0, NOTE, &args, sizeof args));
    say("removexattr", removexattr(path, NOTE));
    say("lremovexattr", lremovexattr(path, NOTE));
    say("fremovexattr", fremovexattr(fd, NOTE));
    say("removexattrat", syscall(466, AT_FDCWD, path, 0, NOTE));
    snprintf(through, sizeof through, "/proc/self/fd/%d", weak);
    say("setxattr-proc", setxattr(through, NOTE, FORGED, length, 0));
    say("io_uring", syscall(425, 8, calloc(1, 512)));
#ifdef __x86_64__
    char *p = low_copy(path), *n = low_copy(NOTE), *v = low_copy(FORGED);
    say("setxattr-i386", old_call(226, (long)p, (long)n, (long)v, length, 0));
    say("lsetxattr-i386", old_call(227, (long)p, (long)n, (long)v, length, 0));
    say("fsetxattr-i386", old_call(228, fd, (long)n, (long)v, length, 0));
    say("removexattr-i386", old_call(235, (long)p, (long)n, 0, 0, 0));
    say("lremovexattr-i386", old_call(236, (long)p, (long)n, 0, 0, 0));
    say("fremovexattr-i386", old_call(237, fd, (long)n, 0, 0, 0));
    say("setxattr-x32", syscall(0x40000000 | SYS_setxattr, path, NOTE, FORGED, length, 0));
#endif
}

static char shared_name[] = NOTE;
static volatile int stop;

static void *flip(void *unused) {
    while (!stop) {
        ((volatile char *)shared_name)[sizeof shared_name - 2] = 's';
        ((volatile char *)shared_name)[sizeof shared_name - 2] = 't';
    }
    return unused;
}

/* The name changes between the look at it and its use, if it is looked at twice. */
static void race(const char *path, double seconds) {
    pthread_t thread;
    double end = now() + seconds;
    long tries = 0, innocent = 0;
    pthread_create(&thread, 0, flip, 0);
    while (now() < end) {
        if (setxattr(path, shared_name, FORGED, strlen(FORGED), 0) == 0) innocent++;
        tries++;
    }
    stop = 1;
    pthread_join(thread, 0);
    printf("tried %d, innocent %d\n", tries > 100, innocent > 0);
}

static void show(const char *what, const char *path) {
    struct stat s;
    if (stat(path, &s) < 0) say(what, -1);
    else printf("%s %u:%u\n", what, s.st_uid, s.st_gid);
}

/* Arguments that lead nowhere, or just not. */
static void pointers(const char *path) {
    struct stat s;
    char *two = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(two + 4096, 4096);
    char *end = two + 4096 - strlen(path) - 1;
    strcpy(end, path);
    char *open_end = two + 4096 - strlen(path);
    say("null", chown(0, 1, 1));
    say("low", chown((char *)8, 1, 1));
    say("kernel", chown((char *)0xffffffff81000000ul, 1, 1));
    say("minus-one", chown((char *)-1, 1, 1));
    say("ends-with-page", chown(end, 5, 6));
    show("ends-with-page", end);
    memcpy(open_end, path, strlen(path));
    say("runs-off-page", chown(open_end, 1, 1));
    say("stat-null", syscall(SYS_newfstatat, AT_FDCWD, 0, &s, 0));
    say("stat-nowhere", syscall(SYS_newfstatat, AT_FDCWD, path, (void *)16, 0));
    char *fixed = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    say("stat-unwritable", syscall(SYS_newfstatat, AT_FDCWD, path, fixed, 0));
    say("xattr-name", setxattr(path, (char *)8, "x", 1, 0));
    say("xattr-value", setxattr(path, "user.x", (char *)8, 1, 0));
    say("xattr-huge", setxattr(path, "user.x", "x", (size_t)-1, 0));
    say("empty", chown("", 1, 1));
    say("descriptor", fchown(-1, 1, 1));
    say("descriptor-far", fchown(0x7fffffff, 1, 1));
    char longest[5000];
    memset(longest, '/', sizeof longest);
    strcpy(longest + 4095 - strlen(path), path);
    say("4095", chown(longest, 7, 8));
    show("4095", path);
    memset(longest, '/', sizeof longest);
    strcpy(longest + 4096 - strlen(path), path);
    say("4096", chown(longest, 1, 1));
    prctl(PR_SET_DUMPABLE, 0);
    say("not-dumpable", chown(path, 9, 10));
    show("not-dumpable", path);
    prctl(PR_SET_DUMPABLE, 1);
}

static const char *thread_path;
static void *chown_in_thread(void *unused) {
    say("thread", chown(thread_path, 31, 32));
    return unused;
}

/* Names of one file, by each of which an owner is given to it and seen. */
static void names(void) {
    mkdir("/n", 0755);
    close(open("/n/file", O_CREAT | O_WRONLY, 0644));
    int fd = open("/n/file", O_RDONLY), dir = open("/n", O_RDONLY);
    char by_fd[64], by_dev[64];
    snprintf(by_fd, sizeof by_fd, "/proc/self/fd/%d", fd);
    snprintf(by_dev, sizeof by_dev, "/dev/fd/%d", fd);
    symlink(by_fd, "/n/to-fd");
    symlink("/n/file", "/n/link");
    symlink("/proc/self/cwd/file", "/n/to-cwd");
    chdir("/n");
    const char *paths[] = {"/n/file", "file", "../n/./file", "/proc/self/root/n/file",
                           "/proc/thread-self/root/n/file", "/proc/self/cwd/file", by_fd, by_dev,
                           "/n/link", "/n/to-cwd", "/n/to-fd"};
    for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++) {
        char what[32];
        snprintf(what, sizeof what, "name-%u", i);
        say(what, chown(paths[i], 100 + i, 200 + i));
        show(what, "/n/file");
    }
    say("at", fchownat(dir, "file", 21, 22, 0));
    show("at", "/n/file");
    say("empty-path", fchownat(fd, "", 23, 24, AT_EMPTY_PATH));
    show("empty-path", "/n/file");
    pthread_t thread;
    thread_path = "/n/file";
    pthread_create(&thread, 0, chown_in_thread, 0);
    pthread_join(thread, 0);
    show("thread", "/n/file");
#ifdef __x86_64__
    char *p = low_copy("/n/file");
    say("i386", old_call(212, (long)p, 41, 42, 0, 0));
    show("i386", "/n/file");
    say("i386-narrow", old_call(182, (long)p, 43, 0xffff, 0, 0));
    show("i386-narrow", "/n/file");
#endif
}

/* In a root directory of one's own, links lead to what is there. */
static void jail(void) {
    mkdir("/jail", 0755);
    mkdir("/jail/sub", 0755);
    close(open("/victim", O_CREAT | O_WRONLY, 0644));
    close(open("/jail/victim", O_CREAT | O_WRONLY, 0644));
    symlink("/victim", "/jail/link");
    symlink("../../../../victim", "/jail/sub/climb");
    if (fork() == 0) {
        if (chroot("/jail") < 0) exit(1);
        chdir("/sub");
        say("link", chown("/link", 50, 51));
        show("link", "/victim");
        say("climb", chown("climb", 52, 53));
        show("climb", "/victim");
        say("parents", chown("../../../victim", 54, 55));
        show("parents", "/victim");
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    show("outside", "/victim");
    show("inside", "/jail/victim");
}

/* Process 1 can do more than the step. */
static void init_process(void) {
    char word[8] = "attack";
    struct iovec local = {word, 8}, remote = {(void *)0x400000, 8};
    say("ptrace", ptrace(PTRACE_ATTACH, 1, 0, 0));
    say("seize", ptrace(PTRACE_SEIZE, 1, 0, 0));
    say("read", process_vm_readv(1, &local, 1, &remote, 1, 0));
    say("write", process_vm_writev(1, &local, 1, &remote, 1, 0));
    say("mem", open("/proc/1/mem", O_RDWR));
    say("root", open("/proc/1/root", O_RDONLY));
    say("fds", open("/proc/1/fd/0", O_RDONLY));
    int pidfd = syscall(SYS_pidfd_open, 1, 0);
    say("descriptor", syscall(SYS_pidfd_getfd, pidfd, 3, 0));
    int signals[] = {SIGKILL, SIGSTOP, SIGTERM, SIGSEGV, SIGBUS, SIGTRAP, SIGCHLD};
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) kill(1, signals[i]);
    kill(-1, SIGKILL);
    close(open("/after", O_CREAT | O_WRONLY, 0644));
    say("chown", chown("/after", 3, 4));
    show("chown", "/after");
}

/* Links of the kernel's own that lead whoever follows them to what is process 1's: its program lies
 * outside of the sandbox. */
static void magic(void) {
    /* Anybody may do anything with it. */
    unsigned char acl[] = {2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 7, 0, 255, 255,
                           255, 255, 0x20, 0, 7, 0, 255, 255, 255, 255};
    char paths[128][64];
    int count = 0;
    symlink("/proc/self/exe", "/to-exe");
    symlink("/proc/self", "/to-self");
    symlink("/proc/1", "/to-one");
    strcpy(paths[count++], "/to-one/exe");
    strcpy(paths[count++], "../proc/1/exe");
    strcpy(paths[count++], "/proc/self/../1/exe");
    strcpy(paths[count++], "/proc/1/task/1/exe");
    for (int i = 1; i < 20; i++) {
        if (i == getpid()) continue;
        snprintf(paths[count++], 64, "/proc/%d/exe", i);
        snprintf(paths[count++], 64, "/proc/%d/../%d/exe", i, i);
        snprintf(paths[count++], 64, "/proc/1/fd/%d", i);
        if (i > 2) snprintf(paths[count++], 64, "/to-self/fd/%d", i);
    }
    int done = 0;
    chdir("/tmp");
    for (int i = 0; i < count; i++) {
        if (setxattr(paths[i], "user.attack", "x", 1, 0) == 0) { printf("xattr %s\n", paths[i]); done++; }
        if (setxattr(paths[i], "system.posix_acl_access", acl, sizeof acl, 0) == 0) { printf("acl %s\n", paths[i]); done++; }
        if (chown(paths[i], 5, 5) == 0) { printf("chown %s\n", paths[i]); done++; }
    }
    printf("tried %d, done %d\n", count > 60, done);
    /* Its own program, or nothing. */
    setxattr("/to-exe", "user.attack", "x", 1, 0);
    setxattr("/to-self/exe", "user.attack", "x", 1, 0);
    setxattr("/to-self/exe", "system.posix_acl_access", acl, sizeof acl, 0);
    setxattr("/to-exe", "system.posix_acl_access", acl, sizeof acl, 0);
}

/* Answers that the kernel alone may give can't be taken over. */
static void listener(void) {
    struct { uint16_t code; uint8_t jt, jf; uint32_t k; } allow = {0x06, 0, 0, 0x7fff0000};
    struct { uint16_t length; void *filter; } program = {1, &allow};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    long result = syscall(SYS_seccomp, 1, 1 << 3, &program);
    say("listener", result);
}

/* Many processes ask at once. */
static void flood(int processes, int rounds) {
    for (int i = 0; i < processes; i++) {
        pid_t child = fork();
        if (child < 0) { say("fork", -1); break; }
        if (child == 0) {
            char path[32];
            struct stat s;
            snprintf(path, sizeof path, "/tmp/flood%d", i);
            close(open(path, O_CREAT | O_WRONLY, 0644));
            for (int round = 1; round <= rounds; round++) {
                if (chown(path, i + 1, round) < 0 || stat(path, &s) < 0) _exit(1);
                if (s.st_uid != (unsigned)i + 1 || s.st_gid != (unsigned)round) _exit(2);
            }
            _exit(0);
        }
    }
    int good = 0, status;
    while (wait(&status) > 0) good += status == 0;
    printf("good %d\n", good);
}

/* Processes that double until there are so many, and stay. */
static void bomb(int generations) {
    for (int i = 0; i < generations; i++) fork();
    setsid();
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    sleep(600);
    _exit(0);
}

/* Two names change places for as long as they are let. */
static void swap(const char *one, const char *other) {
    puts("ready");
    for (;;) syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2);
}

/* Limits of process 1, lowered as far as the kernel lets the step. */
static void cripple(void) {
    struct rlimit none = {0, 0}, second = {1, 1};
    printf("limits %s\n", prlimit(1, RLIMIT_NOFILE, &none, 0) < 0 ? "kept" : "lowered");
    prlimit(1, RLIMIT_CPU, &second, 0);
    fflush(stdout);
    close(open("/crippled", O_CREAT | O_WRONLY, 0644));
    chown("/crippled", 3, 4);
}

int main(int count, char **words) {
    setvbuf(stdout, 0, _IOLBF, 0);
    const char *attack = count > 1 ? words[1] : "";
    if (!strcmp(attack, "forge")) forge(words[2]);
    else if (!strcmp(attack, "race")) race(words[2], atof(words[3]));
    else if (!strcmp(attack, "pointers")) pointers(words[2]);
    else if (!strcmp(attack, "names")) names();
    else if (!strcmp(attack, "jail")) jail();
    else if (!strcmp(attack, "init")) init_process();
    else if (!strcmp(attack, "magic")) magic();
    else if (!strcmp(attack, "listener")) listener();
    else if (!strcmp(attack, "flood")) flood(atoi(words[2]), atoi(words[3]));
    else if (!strcmp(attack, "bomb")) { if (fork() == 0) bomb(atoi(words[2])); usleep(300000); }
    else if (!strcmp(attack, "swap")) swap(words[2], words[3]);
    else if (!strcmp(attack, "cripple")) cripple();
    else if (!strcmp(attack, "chown")) say("chown", chown(words[2], atoi(words[3]), atoi(words[4])));
    else return 2;
    return 0;
}
