"""What the benchmarks share: CPU times, child processes, small tables."""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path


def alternate(functions, rounds=15, calls=5):
    """Median CPU seconds of one call of each function; the functions take turns of several calls."""
    times = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            for _ in range(calls):
                start = time.process_time()
                function()
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values[calls:]) for name, values in times.items()}


def peak_megabytes():
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(script, *arguments):
    """Run a script in a fresh process; its last line of output is JSON. None where it fails."""
    done = subprocess.run(
        [sys.executable, str(Path(script).resolve()), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{Path(script).name} {' '.join(map(str, arguments))}: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(header, rows):
    """Print a Markdown table."""
    print("\n| " + " | ".join(header) + " |")
    print("|---" + "|---:" * (len(header) - 1) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print()
