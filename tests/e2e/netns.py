"""Hosts of their own on one machine: network namespaces on a bridge. Needs root.

The script that uses it runs itself again inside the head's namespace, so that its HTTP requests
reach the head's loopback address; nodes are started with `ip netns exec`.
"""

import os
import subprocess
import sys

SUBNET = "10.213.7"


def run(*command, check=True):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def name_of(index):
    return f"{os.environ['CONCLAVE_NETNS']}{index}"


def address_of(index):
    return f"{SUBNET}.{index + 1}"


def in_namespace(n_hosts):
    """Returns inside the head's namespace, with n_hosts hosts; ends the outer process."""
    if "CONCLAVE_NETNS" in os.environ:
        return
    if os.geteuid() != 0:
        print("SKIPPED: network namespaces need root")
        sys.exit(0)
    prefix = f"cnv{os.getpid()}-"
    os.environ["CONCLAVE_NETNS"] = prefix
    try:
        _create(prefix, n_hosts)
        done = subprocess.run(["ip", "netns", "exec", name_of(0), sys.executable, *sys.argv])
    finally:
        for index in range(n_hosts):
            run("ip", "netns", "del", name_of(index), check=False)
        run("ip", "netns", "del", prefix + "sw", check=False)
    sys.exit(done.returncode)


def _create(prefix, n_hosts):
    switch = prefix + "sw"
    run("ip", "netns", "add", switch)
    run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
    run("ip", "-n", switch, "link", "set", "br0", "up")
    for index in range(n_hosts):
        host = name_of(index)
        run("ip", "netns", "add", host)
        run("ip", "-n", host, "link", "set", "lo", "up")
        run("ip", "link", "add", "eth0", "netns", host, "type", "veth",
            "peer", "name", f"port{index}", "netns", switch)  # fmt: skip
        run("ip", "-n", switch, "link", "set", f"port{index}", "master", "br0", "up")
        run("ip", "-n", host, "addr", "add", f"{address_of(index)}/24", "dev", "eth0")
        run("ip", "-n", host, "link", "set", "eth0", "up")


def cable(index, plugged):
    """Pulls or plugs the host's cable: both ends keep their sockets and hear nothing."""
    switch = os.environ["CONCLAVE_NETNS"] + "sw"
    run("ip", "-n", switch, "link", "set", f"port{index}", "up" if plugged else "down")


def interface(index, up):
    run("ip", "-n", name_of(index), "link", "set", "eth0", "up" if up else "down")
    if up:  # its address went with it where the kernel drops them
        run("ip", "-n", name_of(index), "addr", "replace", f"{address_of(index)}/24", "dev", "eth0")


def half_open(index, on):
    """What the host sends is lost; what it is sent arrives."""
    host = name_of(index)
    if on:
        run("ip", "netns", "exec", host, "nft", "add table inet cnv")
        run("ip", "netns", "exec", host, "nft",
            "add chain inet cnv out { type filter hook output priority 0; policy drop; }")  # fmt: skip
    else:
        run("ip", "netns", "exec", host, "nft", "delete table inet cnv", check=False)
