"""A relay in a few lines of Python: pyzmq's binding of libzmq's proxy, or a loop.

python engine.py proxy|loop INBOUND OUTBOUND
"""

import sys

import zmq

what, inbound, outbound = sys.argv[1:]
context = zmq.Context()
publisher = context.socket(zmq.PUB)
publisher.sndhwm = 0  # or it drops messages as soon as it is busy
publisher.bind(outbound)
subscriber = context.socket(zmq.SUB)
subscriber.rcvhwm = 0
subscriber.subscribe(b"")
subscriber.bind(inbound)
if what == "proxy":
    zmq.proxy(subscriber, publisher)
while True:
    publisher.send_multipart(subscriber.recv_multipart())
