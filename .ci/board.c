/* A board without a C library, under QEMU: start-up for Cortex-M and RISC-V, semihosting, and a main that shows the
 * README's firmware labelled images, then others, and says how many it got right. On a host: the same main. */
#include <stdint.h>
#include "images.h"                     /* image[IMAGES][..], label[IMAGES], LEARN */

int start(void);
int see(const uint8_t *rgb, int label);
extern float feature[FEATURES];

static void put_number(uint32_t n);

#if __STDC_HOSTED__
#include <stdio.h>
#define put(text) fputs(text, stdout)
#else
extern uint32_t stack_top[], data_load[], data_start[], data_end[], bss_start[], bss_end[];
int main(void);

static long host(long op, const void *arg)      /* a semihosting call */
{
#ifdef __riscv
    register long a0 __asm__("a0") = op;
    register const void *a1 __asm__("a1") = arg;
    __asm__ volatile(".option push\n.option norvc\n.balign 16\nslli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop"
                     : "+r"(a0) : "r"(a1) : "memory");
    return a0;
#else
    register long r0 __asm__("r0") = op;
    register const void *r1 __asm__("r1") = arg;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
#endif
}

static void put(const char *text) { host(0x04, text); }

static void leave(int bad)
{
#if __riscv_xlen == 64
    static const uintptr_t good[2] = { 0x20026, 0 }, fault[2] = { 0x20026, 1 };
    for (;;) host(0x18, bad ? fault : good);
#else
    for (;;) host(0x18, (const void *)(bad ? 0x20023u : 0x20026u));
#endif
}

static void fault(void)
{
    put("fault\n");
    leave(1);
}

__attribute__((used)) void begin(void)
{
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    *(volatile uint32_t *)0xE000ED88u |= 0xF00000u;     /* the coprocessor's rights: FPU, MVE */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
    for (uint32_t *to = data_start, *from = data_load; to < data_end;) *to++ = *from++;
    for (volatile uint32_t *to = bss_start; to < bss_end;) *to++ = 0;
    uint32_t *low = (uint32_t *)__builtin_frame_address(0) - 8192, *at = low = low < bss_end ? bss_end : low;
    while (at < (uint32_t *)__builtin_frame_address(0) - 64) *at++ = 0x5ac35ac3u;       /* what main leaves of it was never stack */
    const int bad = main();
    for (at = low; *at == 0x5ac35ac3u;) at++;
    put_number((uint32_t)((uintptr_t)stack_top - (uintptr_t)at));
    leave(bad);
}

#ifdef __riscv
__attribute__((naked, section(".first"), used)) void reset(void)
{
    __asm__ volatile("la sp, stack_top\nla t0, trap\n.insn i 0x73, 1, x0, t0, 0x305\n"      /* csrw mtvec, t0 */
#ifdef __riscv_flen
                     "li t0, 0x6000\ncsrs mstatus, t0\n"
#endif
                     "j begin");
}
__attribute__((aligned(4), used)) void trap(void) { fault(); }
#else
__attribute__((section(".first"), used)) void *const vectors[16] = { stack_top, (void *)begin, (void *)fault, (void *)fault,
    (void *)fault, (void *)fault, (void *)fault };
#endif
#endif

static void put_number(uint32_t n)
{
    char text[12], *t = text + 11;
    *t = 0;
    do *--t = (char)('0' + n % 10);
    while (n /= 10);
    put(t);
}

int main(void)
{
    uint32_t right = 0, sum = 2166136261u;      /* FNV-1a of all features */
    if (start()) return 1;
    for (int i = 0; i < IMAGES; i++) {
        const int said = see(image[i], i < LEARN ? label[i] : -1);
        if (said < 0) return 1;
        right += i >= LEARN && said == label[i];
        for (int c = 0; c < FEATURES; c++) {
            union { float f; uint32_t bits; } u = { feature[c] };
            for (int k = 0; k < 4; k++) sum = (sum ^ (u.bits >> 8 * k & 255)) * 16777619u;
        }
    }
    put("right "), put_number(right), put(" of "), put_number(IMAGES - LEARN), put(", features "), put_number(sum), put("\n");
    return 0;
}
