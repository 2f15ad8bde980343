/* The child of the bench: tells when it was started and when SIGWINCH came, and does nothing else.
 *
 *   child SOCKET [...]      further arguments are ignored (a `#!` line adds one)
 *
 * Each stamp is a datagram of three 64-bit words: kind (0 start, 1 signal), pid, CLOCK_MONOTONIC in ns. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int out = -1;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void tell(uint64_t kind, uint64_t at) {
    uint64_t words[3] = {kind, (uint64_t)getpid(), at};
    /* The bench is gone: so should we be. */
    if (send(out, words, sizeof words, 0) < 0) _exit(0);
}

static void winched(int signal) {
    uint64_t at = now();
    (void)signal;
    tell(1, at);
}

int main(int argc, char **argv) {
    uint64_t started = now();
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    struct sigaction action = {.sa_handler = winched};
    sigset_t none;

    if (argc < 2 || strlen(argv[1]) >= sizeof to.sun_path) return 64;
    strcpy(to.sun_path, argv[1]);
    out = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (out < 0 || connect(out, (struct sockaddr *)&to, sizeof to) < 0) return 0;
    sigaction(SIGWINCH, &action, 0);
    /* A peer that does not unblock its signals for the child is not measured by that. */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, 0);
    /* Nothing is left over, even of a peer that was killed. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    tell(0, started);
    for (;;) pause();
}
