"""What every part of the soak needs: a folder, stores, QEMU, loop devices, mounts.

All of it runs in a mount namespace of its own (see `run`), so that no mount outlives
the test; loop devices let go by themselves when the last user is gone; every process
that is started here is told by the kernel to die with the one that started it, and is
otherwise ended by its own number.
"""

import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# The ledger of sectors and the NBD client are the kill test's.
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "guest"))

STARTED = time.monotonic()
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
LIBC = ctypes.CDLL(None, use_errno=True)
SET_DEATH_SIGNAL = 1


class Failure(Exception):
    """A promise was broken, or the test could not be made; the message says which."""


class Skip(Exception):
    """This cannot be tried here; the message is the reason."""


def say(text):
    print(f"[{time.monotonic() - STARTED:7.1f} s] {text}", flush=True)


def need(*programs, package):
    for program in programs:
        if not shutil.which(program, path=PATH):
            raise Skip(f"there is no {program}: install {package} (scripts/bootstrap soak does)")


def need_mounts():
    """Root, a loop device and FUSE: without them no file system is mounted."""
    if os.geteuid() != 0:
        raise Skip("mounting a file system needs root")
    for device, what in (("/dev/fuse", "FUSE"), ("/dev/loop-control", "loop devices")):
        if not os.access(device, os.R_OK | os.W_OK):
            raise Skip(f"there is no {device}: this kernel, or this container, has no {what}")


def need_file_system(name):
    with open("/proc/filesystems", encoding="ascii") as known:
        if name in known.read().split():
            return
    done = subprocess.run(["modprobe", name], env={**os.environ, "PATH": PATH}, check=False,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Skip(f"this kernel knows no {name}")


def die_with_parent():
    LIBC.prctl(SET_DEATH_SIGNAL, signal.SIGKILL)


class Server:
    """One qemu-storage-daemon. It never outlives `end` or `kill`."""

    count = 0

    def __init__(self, lab, *arguments, env=None):
        Server.count += 1
        self.lab = lab
        self.said_path = lab.path(f"server-{Server.count}.said")
        monitor = lab.path(f"server-{Server.count}.qmp")
        program = os.path.join(os.environ["ARCHIPELAGO_QEMU"], "bin", "qemu-storage-daemon")
        with open(self.said_path, "wb") as said:
            self.process = subprocess.Popen(
                [program, "--chardev", f"socket,id=qmp,path={monitor},server=on,wait=off",
                 "--monitor", "chardev=qmp", *arguments],
                env={**lab.env, **(env or {})}, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                preexec_fn=die_with_parent)
        lab.servers.append(self)
        self.left, self.socket = b"", None
        self.socket = self.connect(monitor)
        try:
            self.line()
            self.qmp("qmp_capabilities")
        except OSError as error:
            raise Failure(f"qemu-storage-daemon does not start: {self.said() or error}") from error

    def connect(self, path):
        end = time.monotonic() + 60
        while True:
            link = socket.socket(socket.AF_UNIX)
            link.settimeout(60)
            try:
                link.connect(path)
                return link
            except OSError:
                link.close()
                if self.process.poll() is not None or time.monotonic() > end:
                    raise Failure(f"qemu-storage-daemon does not start: {self.said()}") from None
                time.sleep(0.01)

    def said(self):
        with open(self.said_path, "rb") as said:
            return said.read()[-2000:].decode(errors="replace").strip()

    def line(self):
        while b"\n" not in self.left:
            got = self.socket.recv(65536)
            if not got:
                raise ConnectionError("the storage daemon is gone")
            self.left += got
        line, self.left = self.left.split(b"\n", 1)
        return json.loads(line)

    def qmp(self, command, **arguments):
        words = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.socket.sendall(json.dumps({"execute": command, "arguments": words}).encode() + b"\n")
        while True:
            answer = self.line()
            if "error" in answer:
                raise Failure(f"QMP {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def alive(self):
        return self.process.poll() is None

    def end(self):
        """A clean end, which must come about."""
        self.process.terminate()
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            raise Failure("the storage daemon does not end when it is asked to") from None
        if code != 0:
            raise Failure(f"the storage daemon ended with {code}: {self.said()}")
        self.socket.close()

    def kill(self):
        if self.alive():
            self.process.kill()
            self.process.wait()
        if self.socket:
            self.socket.close()


def export_nbd(path):
    return ("--nbd-server", f"addr.type=unix,addr.path={path}",
            "--export", "type=nbd,id=nbd,node-name=disk,writable=on,name=disk")


def export_fuse(path):
    return ("--export", f"type=fuse,id=fuse,node-name=disk,mountpoint={path},writable=on")


def volume_node(volume, direct="off", name="disk"):
    return ("--blockdev", f"driver=archipelago,volume={volume},node-name={name},discard=unmap,"
                          f"cache.direct={direct}")


class Lab:
    """A private folder with what was started in it."""

    def __init__(self, name, keep=False):
        cache = os.environ.get("ARCHIPELAGO_CACHE") or os.path.expanduser("~/.cache/archipelago")
        os.makedirs(cache, exist_ok=True)
        # Beside the cache and not in /tmp: that is often small, in memory, or both.
        self.dir = tempfile.mkdtemp(prefix=f"soak-{name}-", dir=cache)
        self.keep = keep
        self.servers, self.mounts, self.loops = [], [], {}
        self.env = {**os.environ, "PATH": PATH}
        self.use_store(self.path("store"))

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def use_store(self, folder):
        config = self.path("archipelago.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(f'default_store = "main"\n\n[stores.main]\nurl = "dir:{folder}"\n')
        self.env["ARCHIPELAGO_CONFIG"] = config

    def run(self, *command, codes=(0,), timeout_s=300, **how):
        """What a command printed; it must end with one of `codes`."""
        try:
            done = subprocess.run(command, env=self.env, stdin=subprocess.DEVNULL, check=False,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  timeout=timeout_s, **how)
        except subprocess.TimeoutExpired:
            raise Failure(f"'{' '.join(command)}' takes more than {timeout_s} s") from None
        words = done.stdout.decode(errors="replace").strip()
        if codes and done.returncode not in codes:
            raise Failure(f"'{' '.join(command)}' ended with {done.returncode}: {words[-2000:]}")
        return words

    def archipelago(self, *words, **how):
        return self.run(os.environ["ARCHIPELAGO_PROG"], *words, **how)

    # ---- loop devices and mounts -------------------------------------------

    def attach(self, file, direct="on"):
        return self.run("losetup", "--find", "--show", f"--direct-io={direct}", file)

    def memory(self, size_mib):
        """A folder in memory that is gone with this mount namespace, for disks that are
        made and thrown away by the hundred: syncing them would cost all of the time."""
        place = self.path("memory")
        os.makedirs(place)
        self.run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=755", "none", place)
        self.mounts.append(place)
        return place

    def mount(self, device, place, options="noatime"):
        """Mounts; the loop device lets go when it is not mounted any more."""
        os.makedirs(place, exist_ok=True)
        try:
            self.run("mount", "-o", options, device, place)
            self.mounts.append(place)
            self.loops[place] = device
        finally:
            self.run("losetup", "--detach", device, codes=None)

    def mount_file(self, file, place, options="noatime", direct="on"):
        self.mount(self.attach(file, direct), place, options)

    def unmount(self, place, lazy=False):
        """Lazy where the disk beneath is dead. Else it may take a moment: the kernel puts
        away the files of a process that was killed after it is gone."""
        end = time.monotonic() + (0 if lazy else 20)
        while True:
            last = time.monotonic() >= end
            codes = None if lazy else (0,) if last else (0, 32)
            if not self.run("umount", *(["--lazy"] if lazy else []), place, codes=codes) or last:
                break
            time.sleep(0.05)
        if place in self.mounts:
            self.mounts.remove(place)
        if place in self.loops:
            self.wait_until_free(self.loops.pop(place))

    def wait_until_free(self, device):
        """A lazily unmounted file system lives until its last user is gone, and as long
        another with its number (XFS has one) cannot be mounted."""
        used = f"/sys/block/{os.path.basename(device)}/loop/backing_file"
        end = time.monotonic() + 60
        while True:
            try:
                with open(used, encoding="utf-8") as backing:
                    if self.dir not in backing.read():
                        return      # Somebody else has it by now.
            except OSError:
                return
            if time.monotonic() > end:
                raise Failure(f"{device} is still in use a minute after it was unmounted")
            time.sleep(0.02)

    def mountpoint_file(self, name):
        """An empty file, for qemu-storage-daemon to mount its export over."""
        path = self.path(name)
        # What a killed one has left there answers nothing any more.
        subprocess.run(["umount", "--lazy", path], env=self.env, check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(path, "wb"):
            return path

    def make_file_system(self, kind, device):
        command = {
            "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"],
            "ext4-nojournal": ["mkfs.ext4", "-q", "-F", "-O", "^has_journal",
                               "-E", "lazy_itable_init=0,nodiscard"],
            "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
            "btrfs": ["mkfs.btrfs", "-q", "-f", "-K"],
        }[kind]
        self.run(*command, device)

    def end(self):
        for server in reversed(self.servers):
            server.kill()
        self.loops.clear()
        for place in reversed(list(self.mounts)):
            self.unmount(place, lazy=True)
        if self.keep:
            say(f"kept: {self.dir}")
            return
        for name in os.listdir(self.dir):
            if os.path.ismount(self.path(name)) or not os.path.exists(self.path(name)):
                self.run("umount", "--lazy", self.path(name), codes=None)
        shutil.rmtree(self.dir, ignore_errors=True)


def compiled(lab, source, *options):
    """The path of what a C file here becomes."""
    need("gcc", package="gcc")
    out = lab.path(os.path.basename(source) + ".out")
    lab.run("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11", f"-I{HERE}/../../include", "-o", out,
            os.path.join(HERE, source), *options)
    return out


def need_kind(kind):
    """mkfs and the kernel's half of one kind of file system."""
    need_mounts()
    name = kind.split("-", maxsplit=1)[0]
    package = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}[name]
    need(f"mkfs.{name}", package=package)
    need_file_system(name)
