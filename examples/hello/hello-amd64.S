# The program of the hello image, for amd64: no library, no loader, a few hundred bytes.
#
#   hello --greet FILE   writes "Hello, $NAME!" into FILE
#   hello                prints the file /greeting
#
# make.sh turns this into the program `hello-amd64`.

        .set    SYS_read, 0
        .set    SYS_write, 1
        .set    SYS_open, 2
        .set    SYS_exit, 60
        .set    O_WRONLY_O_CREAT_O_TRUNC, 01101

        .globl  _start
        .text
_start:                                 # on the stack: argc, argv…, 0, envp…, 0
        mov     (%rsp), %rbx            # argc
        cmp     $3, %rbx
        jae     greet

        lea     greeting_path(%rip), %rdi
        xor     %esi, %esi              # O_RDONLY
        mov     $SYS_open, %eax
        syscall
        test    %eax, %eax
        js      fail
        mov     %eax, %edi
        sub     $4096, %rsp
        mov     %rsp, %rsi
        mov     $4096, %edx
        mov     $SYS_read, %eax
        syscall
        test    %rax, %rax
        js      fail
        mov     %rax, %rdx              # as many bytes as were read
        mov     $1, %edi                # standard output
        call    write
        jmp     done

greet:
        mov     24(%rsp), %rdi          # argv[2]
        mov     $O_WRONLY_O_CREAT_O_TRUNC, %esi
        mov     $0644, %edx
        mov     $SYS_open, %eax
        syscall
        test    %eax, %eax
        js      fail
        mov     %eax, %edi              # the file, from here on
        lea     hello(%rip), %rsi
        mov     $7, %edx
        call    write

        lea     16(%rsp,%rbx,8), %rbp   # envp
next:   mov     (%rbp), %rsi
        test    %rsi, %rsi
        jz      end                     # no NAME
        add     $8, %rbp
        cmpl    $0x454d414e, (%rsi)     # "NAME", little-endian
        jne     next
        cmpb    $'=', 4(%rsi)
        jne     next
        add     $5, %rsi
        xor     %edx, %edx
length: cmpb    $0, (%rsi,%rdx)
        je      name
        inc     %edx
        jmp     length
name:   call    write

end:    lea     mark(%rip), %rsi
        mov     $2, %edx
        call    write
done:   xor     %edi, %edi
exit:   mov     $SYS_exit, %eax
        syscall
fail:   mov     $1, %edi
        jmp     exit

write:                                  # %edi file, %rsi bytes, %rdx count
        mov     $SYS_write, %eax
        syscall
        test    %rax, %rax
        js      fail
        ret

greeting_path:
        .asciz  "/greeting"
hello:  .ascii  "Hello, "
mark:   .ascii  "!\n"
