"""A firewall rule for a host: the cluster's ports are open to the hosts of the inventory and to loopback alone.

Ray listens on all interfaces on most of its ports, and NCCL and Gloo use ports that the system chooses, so the rule
covers both ranges. Every other port, that of ssh among them, stays as it is.
"""

from rlvr.deploy.choices import Firewall
from rlvr.deploy.cluster.inventory import Inventory

# /proc/sys/net/ipv4/ip_local_port_range of Linux, unless the site changed it
EPHEMERAL = (32768, 60999)


def rule(inventory: Inventory, kind: Firewall) -> str:
    """The text of the rule: for `nft -f FILE`, or a shell script with iptables. Loading it again replaces it."""
    return _nft(inventory) if kind is Firewall.NFT else _iptables(inventory)


def _addresses(inventory: Inventory) -> list[str]:
    return [host.address for host in inventory.hosts]


def _names(inventory: Inventory) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in f"rlvr_{inventory.name}")


def _nft(inventory: Inventory) -> str:
    table, family = _names(inventory), "ip6" if ":" in inventory.head.address else "ip"
    ports = f"{inventory.ports.range_text}, {EPHEMERAL[0]}-{EPHEMERAL[1]}"
    return f"""\
# Load on every host: nft -f FILE        Remove: nft delete table inet {table}
table inet {table}
delete table inet {table}
table inet {table} {{
    chain input {{
        type filter hook input priority -10; policy accept;
        iif lo accept
        ct state established,related accept
        tcp dport 22 accept
        {family} saddr {{ {", ".join(_addresses(inventory))} }} tcp dport {{ {ports} }} accept
        tcp dport {{ {ports} }} drop
        udp dport {{ {EPHEMERAL[0]}-{EPHEMERAL[1]} }} ct state new drop
    }}
}}
"""


def _iptables(inventory: Inventory) -> str:
    chain = _names(inventory).upper()[:28]
    is_6 = ":" in inventory.head.address
    ranges = [(inventory.ports.first, inventory.ports.last), EPHEMERAL]
    ports = ",".join(f"{first}:{last}" for first, last in ranges)
    accepts = "\n".join(
        f"    {'[ $t = ip6tables ]' if is_6 else '[ $t = iptables ]'} && "
        f"$t -A {chain} -s {address} -p tcp -m multiport --dports {ports} -j ACCEPT"
        for address in _addresses(inventory)
    )
    return f"""\
#!/bin/sh
# Run as root on every host. Remove:
#   for t in iptables ip6tables; do $t -D INPUT -j {chain}; $t -F {chain}; $t -X {chain}; done
for t in iptables ip6tables; do
    $t -N {chain} 2>/dev/null || $t -F {chain}
    $t -A {chain} -i lo -j RETURN
    $t -A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN
    $t -A {chain} -p tcp --dport 22 -j RETURN
{accepts}
    $t -A {chain} -p tcp -m multiport --dports {ports} -j DROP
    $t -C INPUT -j {chain} 2>/dev/null || $t -I INPUT -j {chain}
done
"""
