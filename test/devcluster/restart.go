package devcluster

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// RestartKubelet kills a node's kubelet, starts it again and waits until it
// reports the node Ready. Pods keep running.
func (c *Cluster) RestartKubelet(ctx context.Context, node string) error {
	if err := c.StopKubelet(ctx, node); err != nil {
		return err
	}
	since := time.Now()
	if err := c.StartKubelet(ctx, node); err != nil {
		return err
	}
	return c.waitNodes(ctx, since, node)
}

// StopKubelet kills a node's kubelet and returns when it is gone.
func (c *Cluster) StopKubelet(ctx context.Context, node string) error {
	if _, err := c.node(node); err != nil {
		return err
	}
	return c.layout.stopDaemon(ctx, kubeletName(node), unix.SIGKILL)
}

// KubeletPID is the process id of a node's kubelet. Its root directory, below
// /proc, is what the node sees.
func (c *Cluster) KubeletPID(node string) (int, error) {
	process, err := readProcess(c.layout.pidFile(kubeletName(node)))
	return process.PID, err
}

// StartKubelet starts the kubelet that StopKubelet ended; it does not wait for
// the node to be ready. It must not be called while one runs.
func (c *Cluster) StartKubelet(ctx context.Context, node string) error {
	n, err := c.node(node)
	if err != nil {
		return err
	}
	return c.layout.startDaemon(ctx, c.kubeletDaemon(n))
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
	if err := removeCgroups(c.layout.machine(node).cgroup); err != nil {
		return err
	}
	since := time.Now()
	if err := c.createNode(n); err != nil {
		return err
	}
	if err := c.startContainerd(ctx, n); err != nil {
		return err
	}
	if err := c.startKubelet(ctx, n); err != nil {
		return err
	}
	return c.waitNodes(ctx, since, node)
}
