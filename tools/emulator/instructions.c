/* A qemu plugin (interface version 1: qemu 6 to 8) that counts the instructions a guest executes.
 *
 *     QEMU_PLUGIN=instructions.so,out=FILE qemu-aarch64 ...
 *
 * The guest calls getpriority(MARK, tag), which the kernel refuses without doing anything. Each
 * such call appends a line to FILE with what was executed since the call before:
 *
 *     tag instructions simd_fp dot_product threads
 *
 * simd_fp (data processing, not loads and stores) and dot_product are decoded on aarch64, where
 * every instruction is one word, and are -1 elsewhere. Counters are shared by the guest's threads
 * without a lock: a line is exact only if threads, the most that were alive at once, is 1.
 *
 * What is used of qemu is declared here, so that building needs a C compiler and nothing else.
 * https://www.qemu.org/docs/master/devel/tcg-plugins.html
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MARK 0x45644765

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;
typedef struct {
    const char *target_name;
    struct { int oldest, current; } version;
} plugin_info; /* there is more that is not used here */
typedef void (*block_callback)(plugin_id, struct qemu_plugin_tb *);
typedef void (*processor_callback)(plugin_id, unsigned);
typedef void (*syscall_callback)(plugin_id, unsigned processor, int64_t number, uint64_t, uint64_t,
                                 uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
enum { ADD_U64 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, block_callback);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, syscall_callback);
void qemu_plugin_register_vcpu_init_cb(plugin_id, processor_callback);
void qemu_plugin_register_vcpu_exit_cb(plugin_id, processor_callback);

EXPORT int qemu_plugin_version = 1;

enum { INSTRUCTIONS, SIMD_FP, DOT_PRODUCT, CLASSES };
static uint64_t executed[CLASSES], before[CLASSES];
static int fixed_words, getpriority_number;
static int threads, most_threads;
static FILE *out;

/* Arm Architecture Reference Manual, C4.1: bits 28 to 25 are x111 for scalar floating point and
 * Advanced SIMD. */
static int is_simd_fp(uint32_t word) { return (word >> 25 & 7) == 7; }

/* SDOT and UDOT, of vectors and by element; half-precision FMLAL and the like do not match. */
static int is_dot_product(uint32_t word) {
    return (word & 0x9fe0fc00) == 0x0e809400 || (word & 0x9fc0f400) == 0x0f80e000;
}

static void on_block(plugin_id id, struct qemu_plugin_tb *block) {
    uint64_t found[CLASSES] = {qemu_plugin_tb_n_insns(block), 0, 0};
    (void)id;
    for (size_t i = 0; fixed_words && i < found[INSTRUCTIONS]; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        found[SIMD_FP] += is_simd_fp(word);
        found[DOT_PRODUCT] += is_dot_product(word);
    }
    for (int kind = 0; kind < CLASSES; kind++)
        if (found[kind])
            qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &executed[kind], found[kind]);
}

static void on_syscall(plugin_id id, unsigned processor, int64_t number, uint64_t which,
                       uint64_t tag, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6,
                       uint64_t a7, uint64_t a8) {
    (void)id, (void)processor, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != getpriority_number || (uint32_t)which != MARK)
        return;
    fprintf(out, "%u", (unsigned)tag);
    for (int kind = 0; kind < CLASSES; kind++)
        fprintf(out, " %lld", kind == INSTRUCTIONS || fixed_words
                                  ? (long long)(executed[kind] - before[kind]) : -1LL);
    fprintf(out, " %d\n", most_threads);
    fflush(out);
    memcpy(before, executed, sizeof before);
    most_threads = threads;
}

/* Two threads that start at once may lose one of two increases of most_threads: it is above 1 by
 * then, and that is all that is asked. */
static void on_thread_start(plugin_id id, unsigned processor) {
    (void)id, (void)processor;
    int alive = __atomic_add_fetch(&threads, 1, __ATOMIC_SEQ_CST);
    if (alive > most_threads)
        most_threads = alive;
}

static void on_thread_end(plugin_id id, unsigned processor) {
    (void)id, (void)processor;
    __atomic_sub_fetch(&threads, 1, __ATOMIC_SEQ_CST);
}

EXPORT int qemu_plugin_install(plugin_id id, const plugin_info *info, int argc, char **argv) {
    fixed_words = !strcmp(info->target_name, "aarch64");
    if (fixed_words)
        getpriority_number = 141;
    else if (!strcmp(info->target_name, "arm"))
        getpriority_number = 96;
    else
        return 1;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4))
            out = fopen(argv[i] + 4, "a");
    if (!out)
        return 1;
    qemu_plugin_register_vcpu_init_cb(id, on_thread_start);
    qemu_plugin_register_vcpu_exit_cb(id, on_thread_end);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    return 0;
}
