/* Shows the libraries of a process an older CPU than the one that it runs on.
 *
 *   cc -shared -fPIC -O2 -o hide_cpu.so hide_cpu.c
 *   HIDE=avx512,vnni,amx LD_PRELOAD=./hide_cpu.so PYTHONPATH=patched_packages python3 ...
 *
 * Libraries choose their kernels by the instruction CPUID (0F A2). cpus.py copies the packages of a
 * runtime and replaces each CPUID by a breakpoint and a NOP (CC 90). A breakpoint arrives as
 * SIGTRAP. The handler here runs CPUID itself and returns the result without the bits of the names
 * in HIDE: avx512, vnni (AVX-512 VNNI), avx_vnni, amx. This works on every CPU and in every virtual
 * machine, on x86-64 Linux. Libraries outside the patched packages see the real CPU.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

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

/* The hidden bits. They are set once, before the first breakpoint. */
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

static void on_breakpoint(int number, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned leaf = regs[REG_RAX], subleaf = regs[REG_RCX], out[4];
    (void)number, (void)info;
    __cpuid_count(leaf, subleaf, out[EAX], out[EBX], out[ECX], out[EDX]);
    if (leaf == 7 && subleaf < 2)
        for (int reg = 0; reg < 4; reg++)
            out[reg] &= ~hidden[subleaf][reg];
    regs[REG_RAX] = out[EAX];
    regs[REG_RBX] = out[EBX];
    regs[REG_RCX] = out[ECX];
    regs[REG_RDX] = out[EDX];
    /* The program goes on behind the breakpoint, at the NOP */
}

__attribute__((constructor)) static void start(void)
{
    struct sigaction action = {.sa_sigaction = on_breakpoint, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (!getenv("HIDE"))
        return;
    hide(getenv("HIDE"));
    sigaction(SIGTRAP, &action, NULL);
}

#ifdef TEST
/* For tests/test_other_cpus.py: prints leaf 7 as CPUID returns it, as a breakpoint returns it, and
 * the hidden bits. */
int main(void)
{
    unsigned real[4], shown[4];
    for (unsigned subleaf = 0; subleaf < 2; subleaf++) {
        __cpuid_count(7, subleaf, real[EAX], real[EBX], real[ECX], real[EDX]);
        __asm__ volatile(".byte 0xcc, 0x90"
                         : "=a"(shown[EAX]), "=b"(shown[EBX]), "=c"(shown[ECX]), "=d"(shown[EDX])
                         : "a"(7), "c"(subleaf));
        for (int reg = 0; reg < 4; reg++)
            printf("%u %d %08x %08x %08x\n", subleaf, reg, real[reg], shown[reg], hidden[subleaf][reg]);
    }
    return 0;
}
#endif
