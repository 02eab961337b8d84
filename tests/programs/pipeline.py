# SPDX-License-Identifier: Apache-2.0
"""Pipelines: three stages of a shell, xz with two threads, openssl. Results must be exact to the byte."""

from harness import PYTHON, Failure, case, counting, job, read


@case("pipeline-steps")
def steps(t):
    """The pipes are full all the time: nothing in them may be lost or come twice."""
    line = (f"{PYTHON} -B {t.target('produce.py')} | awk '{{ printf \"square %d %.0f\\n\", $1, $1 * $1 }}' | "
            f"{PYTHON} -B {t.target('consume.py')}")
    counting(t, ["sh", "-c", line], ["hundred"])


@case("fifo-steps")
def fifo(t):
    """The same through FIFOs in the file system."""
    line = (f"mkfifo one two; {PYTHON} -B {t.target('produce.py')} >one & "
            "awk '{ printf \"square %d %.0f\\n\", $1, $1 * $1 }' <one >two & "
            f"{PYTHON} -B {t.target('consume.py')} <two")
    counting(t, ["sh", "-c", line], ["hundred"])


def same_result(name, results):
    """A verify function: the first result is that of the undisturbed run."""
    def verify(t, status):
        if status != 0:
            raise Failure(f"ended with status {status}: {read(t.logs + '/stderr', '')[-300:]}")
        with open(t.path(name), "rb") as f:
            result = f.read()
        if not result:
            raise Failure(f"{name} is empty")
        if results and result != results[0]:
            raise Failure(f"{name} is not what the undisturbed run wrote")
        results.append(result)
    return verify


@case("pipeline-result")
def result(t):
    line = "seq 1 6000000 | awk '{ s = (s * 31 + $1) % 1000003; print s }' | cksum >out"
    job(t, ["sh", "-c", line], lambda t: None, same_result("out", []))


def noise(mib):
    """Data that is the same every time and not quite compressible."""
    def prepare(t):
        block = b"".join(b"%d is the number %d of many numbers\n" % (n * n * 7919 % 1000003, n) for n in range(60000))
        t.write("data", (block * (mib * 1024 * 1024 // len(block) + 1))[:mib * 1024 * 1024])
    return prepare


@case("xz", needs=["xz"], limit=180)
def xz(t):
    """The output file grows all the time, so its offset counts."""
    job(t, ["sh", "-c", "exec xz -T2 -4 --block-size=1MiB -c data >out.xz"], noise(24), same_result("out.xz", []),
        still=True)


KEY = "-K 000102030405060708090a0b0c0d0e0f -iv 0f0e0d0c0b0a09080706050403020100"


@case("openssl-xz", needs=["openssl", "xz"], limit=180)
def openssl_xz(t):
    line = f"openssl enc -aes-128-cbc {KEY} -in data | xz -T2 -1 --block-size=512KiB -c | openssl dgst -sha256 >out"
    job(t, ["sh", "-c", line], noise(20), same_result("out", []))


@case("openssl", needs=["openssl"], limit=180)
def openssl(t):
    line = (f"head -c 700000000 /dev/zero | openssl enc -aes-128-cbc {KEY} | openssl enc -d -aes-128-cbc {KEY} | "
            "openssl dgst -sha512 >out")
    job(t, ["sh", "-c", line], lambda t: None, same_result("out", []))
