package devcluster

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// WaitReady waits until nodes are Ready, all when none is given, and pods can
// be scheduled on them.
func (c *Cluster) WaitReady(ctx context.Context, nodes ...string) error {
	if len(nodes) == 0 {
		for _, node := range c.state.Nodes {
			nodes = append(nodes, node.Name)
		}
	}
	return c.waitNodes(ctx, time.Time{}, nodes...)
}

// waitNodes waits until nodes are Ready by the word of a kubelet that was
// started after since: the Node object keeps what the one before it said.
func (c *Cluster) waitNodes(ctx context.Context, since time.Time, names ...string) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	for _, name := range names {
		err := c.wait(ctx, name, func(ctx context.Context) (bool, error) {
			if err := checkFresh(ctx, client, name, since); err != nil {
				return false, err
			}
			node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			return nodeReady(node, since)
		})
		if err != nil {
			return err
		}
	}
	return c.wait(ctx, "default service account", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, err
	})
}

// checkFresh looks at the node's lease, which has microseconds where the
// conditions have seconds.
func checkFresh(ctx context.Context, client kubernetes.Interface, name string, since time.Time) error {
	if since.IsZero() {
		return nil
	}
	lease, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if lease.Spec.RenewTime == nil || !lease.Spec.RenewTime.After(since) {
		return fmt.Errorf("kubelet has not renewed its lease yet")
	}
	return nil
}

// nodeReady says why a node is not ready. A condition reported before since,
// by whole seconds, does not count.
func nodeReady(node *corev1.Node, since time.Time) (bool, error) {
	for _, condition := range node.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		if condition.Status != corev1.ConditionTrue {
			return false, fmt.Errorf("not ready: %s", condition.Message)
		}
		if condition.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)) {
			return false, fmt.Errorf("kubelet has not reported yet")
		}
		for _, taint := range node.Spec.Taints {
			if taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable {
				return false, fmt.Errorf("still tainted %s", taint.Key)
			}
		}
		return true, nil
	}
	return false, fmt.Errorf("no Ready condition yet")
}

// recordPodCIDRs writes each node's pod block into its object, where tools
// look for it.
func (c *Cluster) recordPodCIDRs(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	for _, node := range c.state.Nodes {
		object, err := client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("get node %s: %w", node.Name, err)
		}
		for object.Spec.PodCIDR == "" {
			object.Spec.PodCIDR = node.PodCIDR.String()
			object.Spec.PodCIDRs = []string{node.PodCIDR.String()}
			_, err = client.CoreV1().Nodes().Update(ctx, object, metav1.UpdateOptions{})
			if !apierrors.IsConflict(err) {
				break
			}
			if object, err = client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{}); err != nil {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("record pod block of %s: %w", node.Name, err)
		}
	}
	return nil
}
