package devcluster

import (
	"context"

	"golang.org/x/sys/unix"
)

// RestartKubelet kills a node's kubelet and starts it again; pods keep
// running. It returns when the program runs, which is before the node is
// ready again: see WaitReady.
func (c *Cluster) RestartKubelet(ctx context.Context, node string) error {
	n, err := c.node(node)
	if err != nil {
		return err
	}
	if err := c.StopKubelet(ctx, node); err != nil {
		return err
	}
	return c.layout.startDaemon(c.kubeletDaemon(n))
}

// StopKubelet kills a node's kubelet; RestartKubelet brings it back.
func (c *Cluster) StopKubelet(ctx context.Context, node string) error {
	if _, err := c.node(node); err != nil {
		return err
	}
	return c.layout.stopDaemon(ctx, kubeletName(node), unix.SIGKILL)
}

// RestartContainerd kills a node's containerd and starts it again. Pods keep
// running: their shims are processes of their own. It returns when containerd
// answers.
func (c *Cluster) RestartContainerd(ctx context.Context, node string) error {
	n, err := c.node(node)
	if err != nil {
		return err
	}
	if err := c.layout.stopDaemon(ctx, containerdName(node), unix.SIGKILL); err != nil {
		return err
	}
	if err := c.startContainerd(ctx, n); err != nil {
		return err
	}
	return c.waitContainerd(ctx, n)
}

// RebootNode ends everything on a node as a power failure does and brings the
// node up again, Ready. Its disk (the private directories) stays; /run, all
// mounts and all processes are gone. What a reboot of a real machine does and
// this does not: the kernel's boot id stays, and so does the page cache.
func (c *Cluster) RebootNode(ctx context.Context, node string) error {
	n, err := c.node(node)
	if err != nil {
		return err
	}
	for _, name := range []string{kubeletName(node), containerdName(node), proxyName(node)} {
		if err := c.layout.stopDaemon(ctx, name, unix.SIGKILL); err != nil {
			return err
		}
	}
	if err := c.layout.machine(node).clear(ctx); err != nil {
		return err
	}
	if err := c.layout.removeNodeLink(n); err != nil {
		return err
	}
	if err := removeCgroups(node); err != nil {
		return err
	}
	if err := c.createNode(n); err != nil {
		return err
	}
	if err := c.startContainerd(ctx, n); err != nil {
		return err
	}
	if err := c.startKubelet(ctx, n); err != nil {
		return err
	}
	return c.waitNodes(ctx, node)
}

// WaitReady waits until nodes are Ready, all when none is given.
func (c *Cluster) WaitReady(ctx context.Context, nodes ...string) error {
	if len(nodes) == 0 {
		for _, node := range c.state.Nodes {
			nodes = append(nodes, node.Name)
		}
	}
	return c.waitNodes(ctx, nodes...)
}
