package devcluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// privateDirs are the host paths that hold a node's state. Each node has its
// own copy, a shared mount, so that mounts made in a container with
// Bidirectional propagation reach the node and its other containers.
// /run is a tmpfs of each node beside these, /var/run leads to it.
func privateDirs() []string {
	return []string{
		"/etc/cni/net.d",
		"/var/jfsCache",
		"/var/lib/cni",
		"/var/lib/containerd",
		"/var/lib/juicefs",
		"/var/lib/juicefs-csi",
		"/var/lib/kubelet",
		"/var/log/containers",
		"/var/log/pods",
	}
}

// dirID is the name of a private directory in the state directory.
func dirID(path string) string {
	return strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", "-")
}

// createMachines makes the namespaces, the network and the cgroups.
func (c *Cluster) createMachines() error {
	if err := c.layout.preparePins(); err != nil {
		return err
	}
	if err := c.createMountPoints(); err != nil {
		return err
	}
	controlPlane := c.layout.machine(controlPlaneName)
	if err := controlPlane.create(unix.CLONE_NEWNET, createControlPlaneNetwork); err != nil {
		return err
	}
	for _, node := range c.state.Nodes {
		if err := c.createNode(node); err != nil {
			return err
		}
	}
	if err := c.connectHost(c.state.Nodes); err != nil {
		return err
	}
	return controlPlane.do(func() error { return addRoutes(c.state.Nodes) })
}

// createNode makes a node's namespaces and everything in them but the
// programs. The node's private directories keep what they hold.
func (c *Cluster) createNode(node Node) error {
	for _, dir := range privateDirs() {
		if err := os.MkdirAll(c.layout.nodeDir(node.Name, dirID(dir)), 0o755); err != nil {
			return fmt.Errorf("create directory of %s: %w", node.Name, err)
		}
	}
	m := c.layout.machine(node.Name)
	if err := createCgroups(m.cgroup); err != nil {
		return err
	}
	err := m.create(unix.CLONE_NEWNET|unix.CLONE_NEWUTS|unix.CLONE_NEWNS, func() error {
		if err := unix.Sethostname([]byte(node.Name)); err != nil {
			return fmt.Errorf("set host name of %s: %w", node.Name, err)
		}
		return c.layout.mountNode(node)
	})
	if err != nil {
		return err
	}
	controlPlane := c.layout.machine(controlPlaneName)
	if err := controlPlane.addVeth(nodeLinkPrefix+strconv.Itoa(node.Index), "eth0", m); err != nil {
		return err
	}
	return m.do(func() error { return configureNodeNetwork(node, c.state.Nodes) })
}

// mountNode arranges the mounts of a new node's mount namespace; it runs in
// there. The order matters: everything private first, then each bind, then
// each bind shared. Were the root shared before, the binds would join its peer
// group, and every mount below them would appear twice.
func (l layout) mountNode(node Node) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts of %s private: %w", node.Name, err)
	}
	if err := dropForeignMounts(l.path("ns")); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run of %s: %w", node.Name, err)
	}
	if err := unix.Mount("", "/run", "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share /run of %s: %w", node.Name, err)
	}
	for _, dir := range []string{"/run/lock", "/run/netns", "/run/juicefs-csi"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("create %s of %s: %w", dir, node.Name, err)
		}
	}
	for _, dir := range privateDirs() {
		if err := unix.Mount(l.nodeDir(node.Name, dirID(dir)), dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s of %s: %w", dir, node.Name, err)
		}
		if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
			return fmt.Errorf("share %s of %s: %w", dir, node.Name, err)
		}
	}
	return nil
}

// dropForeignMounts removes from a new mount namespace what it must not keep:
// FUSE mounts of others, since a dead server hangs whoever walks them, and the
// pins of other machines' namespaces, which would keep those alive.
func dropForeignMounts(pins string) error {
	mounts, err := readMounts("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if !m.isFuse() && m.target != pins {
			continue
		}
		err := unix.Unmount(m.target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s in new namespace: %w", m.target, err)
		}
	}
	return nil
}

// createMountPoints makes the directories of the machine that the nodes mount
// their own over, and remembers which were missing.
func (c *Cluster) createMountPoints() error {
	var missing []string
	for _, dir := range privateDirs() {
		for ; dir != "/"; dir = filepath.Dir(dir) {
			if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) && !slices.Contains(missing, dir) {
				missing = append(missing, dir)
			}
		}
	}
	c.state.CreatedDirs = missing
	if err := c.save(); err != nil {
		return err
	}
	for _, dir := range privateDirs() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create mount point: %w", err)
		}
	}
	return nil
}

func (c *Cluster) node(name string) (Node, error) {
	for _, node := range c.state.Nodes {
		if node.Name == name {
			return node, nil
		}
	}
	return Node{}, fmt.Errorf("no node %q: %w", name, errNoNode(c.state.Nodes))
}
