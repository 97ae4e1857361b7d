// Quiet: threads that are started while this lives get no signals, which are for the threads of the process that loaded us. Except those
// that are sent to one thread: Mono, .NET and Boehm's collector stop a thread by them that a callback made known to them, and wait for it.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace blastscope {

class Quiet {
public:
    Quiet() {
        sigset_t all;
        sigfillset(&all);
        for (int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigdelset(&all, own);  // a fault's own thread takes these
        for (int stop : {SIGPWR, SIGXCPU}) sigdelset(&all, stop);
        for (int stop = SIGRTMIN; stop <= SIGRTMAX; stop++) sigdelset(&all, stop);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    Quiet(const Quiet&) = delete;
    Quiet& operator=(const Quiet&) = delete;
    ~Quiet() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

private:
    sigset_t before_;
};

}  // namespace blastscope
