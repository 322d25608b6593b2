"""Speed and memory beside peers: transformers, litgpt, peft and trl, measured in one sitting.

    make bench                                    # every work at its real size, results in benchmarks/results
    python -m benchmarks --smoke                  # every work at toy size: shows that it runs, measures nothing
    python -m benchmarks.pretrain --size 124m     # one work; --help lists what it takes

A *work* (``benchmarks/pretrain.py`` and its neighbours) is one thing to be done by several implementations. Each
runs in a process of its own, so that its peak memory is its own; they take turns, several rounds, so that
what else the machine does falls on all of them alike; figures are medians with their range, and ratios are taken within
one sitting only. ``ours`` is always a real ``gptcore.run.Run`` on real data.

litgpt cannot share an environment with today's transformers: ``make bench-peers`` makes one for it, and what is not
installed is reported as not measured. Real data come from the folder that ``GPTWORKS_SHARED_DATA`` names, or are
downloaded once.
"""
