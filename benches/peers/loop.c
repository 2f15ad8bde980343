/* The floor of every supervisor: start it, wait for it, start it again.
 *
 *   loop PROGRAM [ARGS...] */
#define _GNU_SOURCE
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 2) return 64;
    for (;;) {
        pid_t child = vfork();
        if (child == 0) {
            execv(argv[1], argv + 1);
            _exit(127);
        }
        if (child < 0 || waitpid(child, 0, 0) < 0) return 1;
    }
}
