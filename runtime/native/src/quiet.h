// Quiet: threads that are started while this lives get no signals, which are for the threads of the process that loaded us.
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
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    Quiet(const Quiet&) = delete;
    Quiet& operator=(const Quiet&) = delete;
    ~Quiet() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

private:
    sigset_t before_;
};

}  // namespace blastscope
