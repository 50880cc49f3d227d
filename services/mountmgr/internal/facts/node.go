package facts

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Node knows the labels of the node. It is safe for concurrent use.
type Node struct {
	client kubernetes.Interface
	name   string
	needed func() bool

	mu     sync.Mutex
	labels map[string]string
	err    error
}

// NewNode makes no request yet. needed says whether any setting looks at the
// labels now.
func NewNode(client kubernetes.Interface, name string, needed func() bool) *Node {
	return &Node{
		client: client, name: name, needed: needed,
		err: fmt.Errorf("labels of node %s are not read yet: %w", name, errdefs.ErrUnavailable),
	}
}

// Labels returns the labels as they were last read, which nobody changes; an
// error when they never were.
func (n *Node) Labels() (map[string]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.labels, n.err
}

// Refresh reads the labels, in 2 s. When that fails the old ones stay.
func (n *Node) Refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	node, err := n.client.CoreV1().Nodes().Get(ctx, n.name, metav1.GetOptions{})
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err == nil:
		n.labels, n.err = node.Labels, nil
	case n.err != nil:
		n.err = fmt.Errorf("read node %s: %w", n.name, native(err))
	}
}

const (
	// checkInterval is how soon labels are read that settings begin to need.
	checkInterval = 5 * time.Second
	// labelsAge is how old needed labels may be.
	labelsAge = time.Minute
)

// Run reads the labels at once and then, while they are needed, each minute,
// until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	n.Refresh(ctx)
	read := time.Now()
	ticker := time.NewTicker(checkInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		_, err := n.Labels()
		if n.needed() && (err != nil || time.Since(read) >= labelsAge) {
			n.Refresh(ctx)
			read = time.Now()
		}
	}
}
