"""A firewall rule for a host: the cluster's ports are open to the hosts of the inventory and to loopback alone.

Ray listens on all interfaces on most of its ports, and NCCL and Gloo use TCP ports that the system chooses, so the rule
covers both ranges. Every other port stays as it is, and so do the ports of ssh and `open_ports` inside the ranges.
"""

import hashlib

from rlvr.deploy.choices import Firewall
from rlvr.deploy.cluster.inventory import Inventory

# /proc/sys/net/ipv4/ip_local_port_range of Linux, unless the site changed it
EPHEMERAL = (32768, 60999)
_MOST_OF_CHAIN = 28  # characters that iptables takes
_OF_HASH = 8


def rule(inventory: Inventory, kind: Firewall) -> str:
    """The text of the rule: for `nft -f FILE`, or a shell script with iptables. Loading it again replaces it."""
    return _nft(inventory) if kind is Firewall.NFT else _iptables(inventory)


def _addresses(inventory: Inventory) -> list[str]:
    return [host.address for host in inventory.hosts]


def rule_name(inventory: Inventory) -> str:
    """The name of nft's table and, in upper case, of the chain of iptables; no two clusters share one.

    Both programs take fewer characters than the name of a cluster may have, hence the hash.
    """
    digest = hashlib.sha256(inventory.name.encode()).hexdigest()[:_OF_HASH]
    plain = "".join(letter if letter.isalnum() else "_" for letter in f"rlvr_{inventory.name}")
    return f"{plain[: _MOST_OF_CHAIN - _OF_HASH - 1]}_{digest}"


def _comment(inventory: Inventory, *, load: str, remove: str) -> str:
    first, last = EPHEMERAL
    ports = ", ".join(map(str, inventory.reachable_ports))
    return f"""\
# Load on every host, as root: {load}
# Remove: {remove}
# New TCP connections to {inventory.ports.range_text} and {first}-{last} are dropped unless they come from a host of the
# inventory. Excepted: {ports}. If sshd, a VPN over TCP or another service listens on a port in these
# ranges (~/.ssh/config may name one for ssh), add the port to open_ports in the inventory before you load this rule.
"""


def _nft(inventory: Inventory) -> str:
    table, family = rule_name(inventory), "ip6" if ":" in inventory.head.address else "ip"
    ports = f"{inventory.ports.range_text}, {EPHEMERAL[0]}-{EPHEMERAL[1]}"
    return f"""\
{_comment(inventory, load="nft -f FILE", remove=f"nft delete table inet {table}")}\
table inet {table}
delete table inet {table}
table inet {table} {{
    chain input {{
        type filter hook input priority -10; policy accept;
        iif lo accept
        ct state established,related accept
        tcp dport {{ {", ".join(map(str, inventory.reachable_ports))} }} accept
        {family} saddr {{ {", ".join(_addresses(inventory))} }} tcp dport {{ {ports} }} accept
        tcp dport {{ {ports} }} drop
    }}
}}
"""


def _iptables(inventory: Inventory) -> str:
    chain = rule_name(inventory).upper()
    is_6 = ":" in inventory.head.address
    ranges = [(inventory.ports.first, inventory.ports.last), EPHEMERAL]
    ports = ",".join(f"{first}:{last}" for first, last in ranges)
    returns = "\n".join(f"    $t -A {chain} -p tcp --dport {port} -j RETURN" for port in inventory.reachable_ports)
    accepts = "\n".join(
        f"    {'[ $t = ip6tables ]' if is_6 else '[ $t = iptables ]'} && "
        f"$t -A {chain} -s {address} -p tcp -m multiport --dports {ports} -j ACCEPT"
        for address in _addresses(inventory)
    )
    remove = f"for t in iptables ip6tables; do $t -D INPUT -j {chain}; $t -F {chain}; $t -X {chain}; done"
    return f"""\
{_comment(inventory, load="sh FILE", remove=remove)}\
for t in iptables ip6tables; do
    $t -N {chain} 2>/dev/null || $t -F {chain}
    $t -A {chain} -i lo -j RETURN
    $t -A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN
{returns}
{accepts}
    $t -A {chain} -p tcp -m multiport --dports {ports} -j DROP
    $t -C INPUT -j {chain} 2>/dev/null || $t -I INPUT -j {chain}
done
"""
