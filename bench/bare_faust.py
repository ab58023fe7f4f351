"""The reference: a Faust loop that only counts. Arguments: bootstrap, topic, number of events.

Prints the seconds from the first event to the last, of the clock and of CPU time.
"""

import os
import sys
import time

import faust

bootstrap, topic_name, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.argv[1:] = ["worker", "--without-web", "--loglevel=error"]
app = faust.App(f"bare-{os.getpid()}", broker=f"kafka://{bootstrap}", store="memory://", topic_disable_leader=True)
topic = app.topic(topic_name, value_serializer="raw", key_serializer="raw")


@app.agent(topic)
async def count(stream):
    """Count until all are here."""
    seen, first, cpu = 0, 0.0, 0.0
    async for _ in stream:
        seen += 1
        if seen == 1:
            first, cpu = time.perf_counter(), time.process_time()
        if seen == wanted:
            took = f"{time.perf_counter() - first:.6f} {time.process_time() - cpu:.6f}"
            print(f"figure {took}", file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    app.main()
