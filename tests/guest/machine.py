"""A virtual machine for tests: starts QEMU, waits for the guest, talks to both.

The guest is the image that make-rootfs makes. It serves one request per line on
its second serial port (see image/agent); QEMU itself is asked over QMP. Every
wait has a deadline and ends at once when QEMU is gone, and every failure says
what was waited for and shows the end of the guest's console.
"""

import json
import os
import socket
import subprocess
import time

START_DEADLINE_S = 180
REQUEST_DEADLINE_S = 120


class GuestError(Exception):
    """Something a guest or its QEMU should have done did not happen."""


class Lines:
    """A unix socket to QEMU, read line by line with a deadline."""

    def __init__(self, path, process, deadline_s=20):
        self.process = process
        self.left = b""
        end = time.monotonic() + deadline_s
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(path)
                return
            except OSError:
                self.socket.close()
                if process.poll() is not None or time.monotonic() > end:
                    raise GuestError(f"QEMU does not listen on {os.path.basename(path)}")
                time.sleep(0.05)

    def send(self, text):
        self.socket.sendall(text.encode())

    def line(self, end, waited_for):
        while b"\n" not in self.left:
            if time.monotonic() > end:
                raise GuestError(f"no answer in time: {waited_for}")
            self.socket.settimeout(0.5)
            try:
                got = self.socket.recv(65536)
            except TimeoutError:
                got = None
            except OSError as error:
                raise GuestError(f"QEMU hung up while waiting for: {waited_for}") from error
            if got == b"":
                raise GuestError(f"QEMU ended while waiting for: {waited_for}")
            self.left += got or b""
        line, self.left = self.left.split(b"\n", 1)
        return line.decode(errors="replace").strip()

    def close(self):
        self.socket.close()


class Machine:
    """One run of QEMU. Use with `with`: it never outlives the block."""

    def __init__(self, qemu, guest_dir, work_dir, drive, arguments="", name="vm",
                 accel="tcg", env=None):
        self.name = name
        self.console_path = os.path.join(work_dir, f"{name}.console")
        self.errors_path = os.path.join(work_dir, f"{name}.qemu")
        sockets = {key: os.path.join(work_dir, f"{name}.{key}") for key in ("qmp", "agent")}
        for path in sockets.values():
            if os.path.exists(path):
                os.unlink(path)
        cpu = {"tcg": ["-accel", "tcg,thread=multi", "-cpu", "max"],
               "kvm": ["-accel", "kvm", "-cpu", "host"]}
        self.command = [
            *qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-M", "q35", *cpu[accel], "-m", "512", "-smp", "2",
            "-kernel", os.path.join(guest_dir, "vmlinuz"),
            "-initrd", os.path.join(guest_dir, "initrd"),
            "-append", f"root=/dev/vda ro console=ttyS0 quiet panic=-1 {arguments}".strip(),
            "-serial", f"file:{self.console_path}",
            "-serial", f"unix:{sockets['agent']},server=on,wait=off",
            "-qmp", f"unix:{sockets['qmp']},server=on,wait=off",
            "-drive", drive,
        ]
        with open(self.errors_path, "wb") as errors:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=env)
        self.requests = 0
        self.agent = self.monitor = None
        try:
            self.agent = Lines(sockets["agent"], self.process)
            self.monitor = Lines(sockets["qmp"], self.process)
            self.monitor.line(time.monotonic() + 20, "QMP's greeting")
            self.qmp("qmp_capabilities")
        except GuestError as error:
            self.kill()
            raise self.told(error) from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def told(self, error):
        """The error with what QEMU and the guest said last."""
        words = [str(error)]
        for title, path in (("QEMU said", self.errors_path), ("the console's end", self.console_path)):
            if os.path.exists(path):
                with open(path, "rb") as file:
                    text = file.read()[-2000:].decode(errors="replace").strip()
                if text:
                    words.append(f"--- {self.name}: {title}:\n{text}")
        return GuestError("\n".join(words))

    def qmp(self, command, **arguments):
        request = {"execute": command}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.monitor.send(json.dumps(request) + "\n")
        end = time.monotonic() + REQUEST_DEADLINE_S
        while True:
            answer = json.loads(self.monitor.line(end, f"QMP {command}"))
            if "error" in answer:
                raise self.told(GuestError(f"QMP {command}: {answer['error']['desc']}"))
            if "return" in answer:
                return answer["return"]

    def wait_up(self, deadline_s=START_DEADLINE_S):
        """Until the guest's init reports that everything has started."""
        return self.answer(0, "the guest's init to report that it is up", deadline_s)

    def begin(self, verb, *words):
        """Sends a request and does not wait: end it with finish()."""
        self.requests += 1
        self.agent.send(f"{self.requests} {verb} {' '.join(map(str, words))}\n")
        return self.requests, f"{verb} {' '.join(map(str, words))}"

    def finish(self, begun, deadline_s=REQUEST_DEADLINE_S):
        return self.answer(begun[0], begun[1], deadline_s)

    def ask(self, verb, *words, deadline_s=REQUEST_DEADLINE_S):
        return self.finish(self.begin(verb, *words), deadline_s)

    def answer(self, number, waited_for, deadline_s):
        try:
            line = self.agent.line(time.monotonic() + deadline_s, waited_for)
        except GuestError as error:
            raise self.told(error) from error
        got, _, rest = line.partition(" ")
        verdict, _, words = rest.partition(" ")
        if got != str(number) or verdict != "ok":
            raise self.told(GuestError(f"{waited_for}: the guest answered '{line}'"))
        return words

    def power_off(self, deadline_s=90):
        """Asks the guest and waits until QEMU has ended by itself, without error."""
        self.ask("poweroff")
        try:
            code = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            raise self.told(GuestError("the guest did not power off in time")) from error
        if code != 0:
            raise self.told(GuestError(f"QEMU ended with code {code} on power off"))

    def kill(self):
        """Ends this machine's QEMU, and only it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for lines in (self.agent, self.monitor):
            if lines:
                lines.close()


def best_accel(qemu, guest_dir, work_dir, env=None):
    """KVM where it boots this kernel in a few seconds, else emulation.

    A /dev/kvm that opens proves little: under some hypervisors it exists and runs
    a stock kernel a thousand times slower, or not at all. So it is tried, once for
    each kernel of the host.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    verdict_path = os.path.join(os.path.dirname(guest_dir), f"accel-{os.uname().release}")
    if os.path.exists(verdict_path):
        with open(verdict_path, encoding="utf-8") as file:
            return file.read().strip()
    console = os.path.join(work_dir, "probe.console")
    command = [*qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "q35",
               "-accel", "kvm", "-cpu", "host", "-m", "256", "-kernel", os.path.join(guest_dir, "vmlinuz"),
               "-append", "console=ttyS0 panic=-1", "-serial", f"file:{console}"]
    verdict = "tcg"
    try:
        # Without a root file system the kernel panics, and with panic=-1 it resets:
        # under -no-reboot QEMU then ends. Getting that far is the proof.
        subprocess.run(command, timeout=8, check=True, env=env, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(console, "rb") as file:
            if b"Kernel panic" in file.read():
                verdict = "kvm"
    except (subprocess.SubprocessError, OSError):
        pass
    with open(verdict_path, "w", encoding="utf-8") as file:
        file.write(verdict + "\n")
    return verdict
