package devcluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Status is what a cluster is doing.
type Status struct {
	Dir               string         `json:"dir"`
	KubernetesVersion string         `json:"kubernetesVersion"`
	Kubeconfig        string         `json:"kubeconfig"`
	AuditLog          string         `json:"auditLog"`
	Logs              string         `json:"logs"`
	Redis             string         `json:"redis,omitempty"`
	Running           bool           `json:"running"` // complete, and all daemons alive
	Nodes             []NodeStatus   `json:"nodes"`
	Daemons           []DaemonStatus `json:"daemons"`
}

// NodeStatus is a node and what the API server says about it.
type NodeStatus struct {
	Node
	Ready bool   `json:"ready"`
	Why   string `json:"why,omitempty"` // when not ready
}

// DaemonStatus is one program of the cluster.
type DaemonStatus struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Alive bool   `json:"alive"`
	Log   string `json:"log"`
}

// statusTimeout bounds the questions to an API server that may hang.
const statusTimeout = 5 * time.Second

// Status asks the API server about the nodes and the machine about the
// daemons.
func (c *Cluster) Status(ctx context.Context) (Status, error) {
	s := Status{
		Dir:               c.layout.dir,
		KubernetesVersion: c.state.KubernetesVersion,
		Kubeconfig:        c.Kubeconfig(),
		AuditLog:          c.AuditLog(),
		Logs:              c.layout.path("logs"),
		Running:           c.state.Complete,
	}
	if c.state.Redis {
		s.Redis = RedisAddress
	}
	processes, err := c.layout.processes()
	if err != nil {
		return s, err
	}
	for _, p := range processes {
		alive := p.alive()
		s.Running = s.Running && alive
		s.Daemons = append(s.Daemons, DaemonStatus{Name: p.Name, PID: p.PID, Alive: alive, Log: c.layout.log(p.Name)})
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	for _, node := range c.state.Nodes {
		s.Nodes = append(s.Nodes, c.nodeStatus(ctx, node))
	}
	return s, nil
}

func (c *Cluster) nodeStatus(ctx context.Context, node Node) NodeStatus {
	status := NodeStatus{Node: node}
	client, err := c.Client()
	if err != nil {
		status.Why = err.Error()
		return status
	}
	object, err := client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	if err != nil {
		status.Why = err.Error()
		return status
	}
	if status.Ready, err = nodeReady(object, time.Time{}); err != nil {
		status.Why = err.Error()
	}
	return status
}

// String is the status for people, one line a thing.
func (s Status) String() string {
	var w strings.Builder
	state := "not running"
	if s.Running {
		state = "running"
	}
	fmt.Fprintf(&w, "cluster     %s, Kubernetes %s, in %s\n", state, s.KubernetesVersion, s.Dir)
	fmt.Fprintf(&w, "kubeconfig  %s\n", s.Kubeconfig)
	fmt.Fprintf(&w, "audit log   %s\n", s.AuditLog)
	if s.Redis != "" {
		fmt.Fprintf(&w, "redis       %s\n", s.Redis)
	}
	for _, node := range s.Nodes {
		ready := "Ready"
		if !node.Ready {
			ready = node.Why
		}
		fmt.Fprintf(&w, "%-11s %s, pods %s, %s\n", node.Name, node.IP, node.PodCIDR, ready)
	}
	for _, d := range s.Daemons {
		alive := "alive"
		if !d.Alive {
			alive = "dead"
		}
		fmt.Fprintf(&w, "%-24s pid %-8d %-6s %s\n", d.Name, d.PID, alive, d.Log)
	}
	return w.String()
}

// deadDaemons names the daemons that were started and do not run any more.
func (c *Cluster) deadDaemons() []string {
	processes, err := c.layout.processes()
	if err != nil {
		return []string{err.Error()}
	}
	var dead []string
	for _, p := range processes {
		if !p.alive() {
			dead = append(dead, p.Name)
		}
	}
	return dead
}
