/* Shows a process an older CPU than the one that it runs on.
 *
 *   cc -shared -fPIC -O2 -o hide_cpu.so hide_cpu.c
 *   HIDE=avx512,vnni,amx LD_PRELOAD=./hide_cpu.so python3 ...
 *
 * Libraries choose their kernels by the instruction CPUID. Linux can make it fault, on CPUs that
 * have `cpuid_fault` among their flags. The fault arrives as SIGSEGV, and the handler here answers
 * in place of the CPU, without the bits of what HIDE names: avx512, vnni (AVX-512 VNNI), avx_vnni,
 * amx. x86-64 Linux only. What ran before this library was loaded has seen the real CPU: libc.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

enum { EAX, EBX, ECX, EDX };

/* Bits of leaf 7, by sub-leaf and register, as in Intel's manual, volume 2, CPUID. */
static const struct { const char *name; unsigned subleaf; int reg; unsigned bits; } FEATURES[] = {
    {"avx512", 0, EBX, BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)},
    {"avx512", 0, ECX, BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14)},
    {"avx512", 0, EDX, BIT(2) | BIT(3) | BIT(8) | BIT(23)},
    {"avx512", 1, EAX, BIT(5)},
    {"avx512", 1, EDX, BIT(19)},
    {"vnni", 0, ECX, BIT(11)},
    {"avx_vnni", 1, EAX, BIT(4) | BIT(23)},
    {"avx_vnni", 1, EDX, BIT(4) | BIT(5) | BIT(10)},
    {"amx", 0, EDX, BIT(22) | BIT(24) | BIT(25)},
    {"amx", 1, EAX, BIT(21)},
    {"amx", 1, EDX, BIT(8)},
};

/* The bits that are hidden; filled once, before any fault. */
static unsigned hidden[2][4];

static void hide(const char *names)
{
    char copy[256];
    snprintf(copy, sizeof copy, "%s", names);
    for (char *name = strtok(copy, ","); name; name = strtok(NULL, ","))
        for (size_t i = 0; i < sizeof FEATURES / sizeof *FEATURES; i++)
            if (!strcmp(name, FEATURES[i].name))
                hidden[FEATURES[i].subleaf][FEATURES[i].reg] |= FEATURES[i].bits;
}

static void answer(unsigned leaf, unsigned subleaf, unsigned out[4])
{
    __cpuid_count(leaf, subleaf, out[EAX], out[EBX], out[ECX], out[EDX]);
    if (leaf == 7 && subleaf < 2)
        for (int reg = 0; reg < 4; reg++)
            out[reg] &= ~hidden[subleaf][reg];
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)regs[REG_RIP];
    unsigned out[4];
    (void)info;
    /* A fault of CPUID has no address of its own: the program counter shows what it was. */
    if (!code || code[0] != 0x0f || code[1] != 0xa2) {
        signal(number, SIG_DFL); /* a real fault: it comes again, and ends the process */
        return;
    }
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1); /* of this thread only */
    answer(regs[REG_RAX], regs[REG_RCX], out);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    regs[REG_RAX] = out[EAX];
    regs[REG_RBX] = out[EBX];
    regs[REG_RCX] = out[ECX];
    regs[REG_RDX] = out[EDX];
    regs[REG_RIP] += 2;
}

#ifndef TEST
__attribute__((constructor)) static void start(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (!getenv("HIDE"))
        return;
    hide(getenv("HIDE"));
    sigaction(SIGSEGV, &action, NULL);
    /* New threads inherit it; a program that is executed does not. */
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        fputs("hide_cpu: this CPU, or this virtual machine, cannot make CPUID fault\n", stderr);
        _exit(3);
    }
}
#else
/* For tests/test_other_cpus.py: what is left of leaf 7, and whether a fault is answered with it. */
int main(int count, char **words)
{
    static const unsigned char cpuid[] = {0x0f, 0xa2};
    unsigned real[4], shown[4];
    ucontext_t context;
    hide(count > 1 ? words[1] : "");
    for (unsigned subleaf = 0; subleaf < 2; subleaf++) {
        memset(&context, 0, sizeof context);
        __cpuid_count(7, subleaf, real[EAX], real[EBX], real[ECX], real[EDX]);
        context.uc_mcontext.gregs[REG_RAX] = 7;
        context.uc_mcontext.gregs[REG_RCX] = subleaf;
        context.uc_mcontext.gregs[REG_RIP] = (greg_t)cpuid;
        on_fault(SIGSEGV, NULL, &context);
        shown[EAX] = context.uc_mcontext.gregs[REG_RAX];
        shown[EBX] = context.uc_mcontext.gregs[REG_RBX];
        shown[ECX] = context.uc_mcontext.gregs[REG_RCX];
        shown[EDX] = context.uc_mcontext.gregs[REG_RDX];
        if (context.uc_mcontext.gregs[REG_RIP] != (greg_t)cpuid + 2)
            return 1;
        for (int reg = 0; reg < 4; reg++)
            printf("%u %d %08x %08x %08x\n", subleaf, reg, real[reg], shown[reg], hidden[subleaf][reg]);
    }
    return 0;
}
#endif
