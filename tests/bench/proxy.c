/*
 * The engine and nothing else: a SUB and a PUB bound as the relay binds them, and libzmq's
 * zmq_proxy() between them.  Every option is as libzmq has it by default, but for the high-water
 * mark: at the default of 1,000 messages it drops some as soon as it is busy.
 *
 *     proxy INBOUND OUTBOUND
 *
 * Prints the version of the libzmq that it runs on and forwards until a signal ends it; what
 * cannot be had is an error on stderr and status 1.
 */

#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

static void *bound(void *context, int kind, const char *address)
{
    int no_limit = 0;
    void *made = zmq_socket(context, kind);
    if (made == NULL
        || zmq_setsockopt(made, ZMQ_SNDHWM, &no_limit, sizeof no_limit) != 0
        || zmq_setsockopt(made, ZMQ_RCVHWM, &no_limit, sizeof no_limit) != 0
        || (kind == ZMQ_SUB && zmq_setsockopt(made, ZMQ_SUBSCRIBE, "", 0) != 0)
        || zmq_bind(made, address) != 0) {
        fprintf(stderr, "proxy: %s: %s\n", address, zmq_strerror(zmq_errno()));
        exit(1);
    }
    return made;
}

int main(int argc, char **argv)
{
    int major, minor, patch;

    if (argc != 3) {
        fprintf(stderr, "usage: proxy INBOUND OUTBOUND\n");
        return 2;
    }
    zmq_version(&major, &minor, &patch);
    printf("libzmq %d.%d.%d\n", major, minor, patch);
    fflush(stdout);

    void *context = zmq_ctx_new();
    void *outbound = bound(context, ZMQ_PUB, argv[2]);
    void *inbound = bound(context, ZMQ_SUB, argv[1]);
    zmq_proxy(inbound, outbound, NULL);
    fprintf(stderr, "proxy: %s\n", zmq_strerror(zmq_errno()));
    return 1;
}
