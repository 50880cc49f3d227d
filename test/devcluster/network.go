package devcluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The network:
//
//	machine (HostIP) ---veth---+
//	node-1 (eth0)    ---veth---+--- bridge in the control plane's namespace (ControlPlaneIP)
//	node-2 (eth0)    ---veth---+
//
// Everybody has a route to every node's pod block by way of the node, and to
// the Service block by way of the first node, whose kube-proxy translates it.

// createControlPlaneNetwork makes the bridge; runs in the control plane's
// namespace.
func createControlPlaneNetwork() error {
	if err := enableForwarding(); err != nil {
		return err
	}
	if err := linkUp("lo"); err != nil {
		return err
	}
	bridge := &netlink.Bridge{LinkAttrs: linkAttrs(bridgeName)}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("create bridge: %w", err)
	}
	return configureLink(bridgeName, ControlPlaneIP)
}

// connectHost gives the machine itself an address on the bridge. The alias of
// the interface says which state directory it belongs to.
func (c *Cluster) connectHost(nodes []Node) error {
	controlPlane := c.layout.machine(controlPlaneName)
	if err := controlPlane.addVeth(hostPeerName, hostLinkName, os.Getpid()); err != nil {
		return err
	}
	link, err := netlink.LinkByName(hostLinkName)
	if err != nil {
		return fmt.Errorf("find %s: %w", hostLinkName, err)
	}
	if err := netlink.LinkSetAlias(link, c.layout.dir); err != nil {
		return fmt.Errorf("mark %s: %w", hostLinkName, err)
	}
	if err := configureLink(hostLinkName, HostIP); err != nil {
		return err
	}
	return addRoutes(nodes)
}

// addVeth makes a pair: one end on the bridge, the other under the name peer
// in the network namespace of target, a machine or the process with that id.
func (m machine) addVeth(name, peer string, target any) error {
	var namespace any
	switch t := target.(type) {
	case int:
		namespace = netlink.NsPid(t)
	case machine:
		f, err := os.Open(t.pin("net"))
		if err != nil {
			return fmt.Errorf("open network namespace of %s: %w", t.name, err)
		}
		defer f.Close()
		namespace = netlink.NsFd(int(f.Fd()))
	}
	return m.do(func() error {
		bridge, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return fmt.Errorf("find bridge: %w", err)
		}
		attrs := linkAttrs(name)
		attrs.MasterIndex = bridge.Attrs().Index
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: namespace}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("create veth %s: %w", name, err)
		}
		return linkUp(name)
	})
}

// configureNodeNetwork runs in the node's namespace after its veth was made.
func configureNodeNetwork(node Node, nodes []Node) error {
	if err := enableForwarding(); err != nil {
		return err
	}
	if err := linkUp("lo"); err != nil {
		return err
	}
	if err := configureLink("eth0", node.IP.String()); err != nil {
		return err
	}
	gateway := &netlink.Route{Gw: net.ParseIP(ControlPlaneIP)}
	if err := netlink.RouteAdd(gateway); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return addPodRoutes(nodes, node.IP)
}

// addRoutes adds the routes of a place that runs no kube-proxy.
func addRoutes(nodes []Node) error {
	if err := addPodRoutes(nodes, netip.Addr{}); err != nil {
		return err
	}
	return addRoute(serviceCIDR, nodes[0].IP)
}

func addPodRoutes(nodes []Node, self netip.Addr) error {
	for _, node := range nodes {
		if node.IP == self {
			continue
		}
		if err := addRoute(node.PodCIDR.String(), node.IP); err != nil {
			return err
		}
	}
	return nil
}

func addRoute(cidr string, via netip.Addr) error {
	_, dst, err := net.ParseCIDR(cidr)
	if err != nil {
		return fmt.Errorf("route to %s: %w", cidr, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("add route to %s: %w", cidr, err)
	}
	return nil
}

func linkAttrs(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	return nil
}

func configureLink(name, ip string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	addr, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", ip, bridgePrefix))
	if err != nil {
		return fmt.Errorf("address %s: %w", ip, err)
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("give %s address %s: %w", name, ip, err)
	}
	return linkUp(name)
}

// enableForwarding turns routing on in the caller's network namespace:
// /proc/sys/net shows that of the thread that opens it.
func enableForwarding() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("enable forwarding: %w", err)
	}
	return nil
}

// hostLinkOwner returns the state directory of the cluster that the machine
// is connected to, and false when there is none.
func hostLinkOwner() (string, bool) {
	link, err := netlink.LinkByName(hostLinkName)
	if err != nil {
		return "", false
	}
	return link.Attrs().Alias, true
}

// checkNetworkFree fails when another cluster uses the fixed addresses.
func (l layout) checkNetworkFree() error {
	if owner, ok := hostLinkOwner(); ok && owner != l.dir {
		return fmt.Errorf("a cluster with state directory %q exists on this machine, and only one can: %w",
			owner, errdefs.ErrAlreadyExists)
	}
	return nil
}

// checkConnected fails when the machine has no way to the cluster: its
// addresses would then lead to whatever network the machine is in.
func (l layout) checkConnected() error {
	if owner, ok := hostLinkOwner(); !ok || owner != l.dir {
		return fmt.Errorf("the cluster in %s is not running: %w", l.dir, errdefs.ErrUnavailable)
	}
	return nil
}

// removeHostLink removes the machine's end of the veth and with it its routes
// to the cluster.
func (l layout) removeHostLink() error {
	owner, ok := hostLinkOwner()
	if !ok || (owner != l.dir && owner != "") {
		return nil
	}
	return removeLink(hostLinkName)
}

// removeLinks removes the interfaces of a machine; it runs in its network
// namespace, which another process on the machine may keep alive for longer.
func removeLinks() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, link := range links {
		if t := link.Type(); t != "veth" && t != "bridge" {
			continue
		}
		if err := removeLink(link.Attrs().Name); err != nil {
			return err
		}
	}
	return nil
}

// removeNodeLink removes a node's port of the bridge, which may outlive the
// node's namespace by a moment.
func (l layout) removeNodeLink(node Node) error {
	return l.machine(controlPlaneName).do(func() error {
		return removeLink(nodeLinkPrefix + strconv.Itoa(node.Index))
	})
}

// removeLink removes an interface; fine when it is gone, as the second end of
// a pair is by itself.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}
