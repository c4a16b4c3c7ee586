// The program of the hello image, for arm64: no library, no loader, a few hundred bytes.
//
//   hello --greet FILE   writes "Hello, $NAME!" into FILE
//   hello                prints the file /greeting
//
// make.sh turns this into the program `hello-arm64`.

        .set    SYS_openat, 56
        .set    SYS_read, 63
        .set    SYS_write, 64
        .set    SYS_exit, 93
        .set    AT_FDCWD, -100
        .set    O_WRONLY_O_CREAT_O_TRUNC, 01101

        .globl  _start
        .text
_start:                                 // on the stack: argc, argv…, 0, envp…, 0
        ldr     x19, [sp]               // argc
        cmp     x19, #3
        b.hs    greet

        mov     x0, #AT_FDCWD
        adr     x1, greeting_path
        mov     x2, #0                  // O_RDONLY
        mov     x8, #SYS_openat
        svc     #0
        tbnz    x0, #63, fail
        sub     sp, sp, #4096
        mov     x1, sp
        mov     x2, #4096
        mov     x8, #SYS_read
        svc     #0
        tbnz    x0, #63, fail
        mov     x2, x0                  // as many bytes as were read
        mov     x20, #1                 // standard output
        bl      write
        b       done

greet:
        mov     x0, #AT_FDCWD
        ldr     x1, [sp, #24]           // argv[2]
        mov     x2, #O_WRONLY_O_CREAT_O_TRUNC
        mov     x3, #0644
        mov     x8, #SYS_openat
        svc     #0
        tbnz    x0, #63, fail
        mov     x20, x0                 // the file, from here on
        adr     x1, hello
        mov     x2, #7
        bl      write

        add     x21, sp, x19, lsl #3
        add     x21, x21, #16           // envp
        ldr     w22, name_word
next:   ldr     x1, [x21], #8
        cbz     x1, end                 // no NAME
        ldr     w3, [x1]
        cmp     w3, w22
        b.ne    next
        ldrb    w3, [x1, #4]
        cmp     w3, #'='
        b.ne    next
        add     x1, x1, #5
        mov     x2, #0
length: ldrb    w3, [x1, x2]
        cbz     w3, name
        add     x2, x2, #1
        b       length
name:   bl      write

end:    adr     x1, mark
        mov     x2, #2
        bl      write
done:   mov     x0, #0
exit:   mov     x8, #SYS_exit
        svc     #0
fail:   mov     x0, #1
        b       exit

write:                                  // x20 file, x1 bytes, x2 count
        mov     x0, x20
        mov     x8, #SYS_write
        svc     #0
        tbnz    x0, #63, fail
        ret

        .balign 4
name_word:
        .ascii  "NAME"
greeting_path:
        .asciz  "/greeting"
hello:  .ascii  "Hello, "
mark:   .ascii  "!\n"
