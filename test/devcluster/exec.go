package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/containerd/errdefs"
)

// Streams are the standard streams of a command; nil means none.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// NodeExec runs a command in a node's namespaces, in /, and waits for it. A
// command that does not exit with 0 gives an *exec.ExitError. The command is
// killed when the context ends.
func (c *Cluster) NodeExec(ctx context.Context, node string, streams Streams, argv ...string) error {
	if _, err := c.node(node); err != nil {
		return err
	}
	return execIn(ctx, c.layout.machine(node), streams, argv)
}

// NodeOutput is NodeExec for a command whose standard output is wanted; its
// error holds what the command wrote to standard error.
func (c *Cluster) NodeOutput(ctx context.Context, node string, argv ...string) ([]byte, error) {
	var out, errOut strings.Builder
	err := c.NodeExec(ctx, node, Streams{Out: &out, Err: &errOut}, argv...)
	if err != nil {
		return nil, fmt.Errorf("run %s on %s: %w: %s", argv[0], node, err, strings.TrimSpace(errOut.String()))
	}
	return []byte(out.String()), nil
}

// Cgroup is the path, in every hierarchy, of the cgroup that the processes of a
// node are in or below. Nodes have no pid namespace, so this tells a node's
// processes from those of another cluster.
func (c *Cluster) Cgroup(node string) string { return "/" + c.layout.machine(node).cgroup }

// Kubectl runs the cluster's kubectl with all rights and waits for it.
func (c *Cluster) Kubectl(ctx context.Context, streams Streams, args ...string) error {
	if err := c.layout.checkConnected(); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, c.state.KubernetesBinary, append([]string{"kubectl"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = streams.In, streams.Out, streams.Err
	return cmd.Run()
}

func execIn(ctx context.Context, m machine, streams Streams, argv []string) error {
	if len(argv) == 0 {
		return fmt.Errorf("no command given: %w", errdefs.ErrInvalidArgument)
	}
	path := argv[0]
	if !strings.Contains(path, "/") {
		found, err := lookTool(path)
		if err != nil {
			return err
		}
		path = found
	}
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Args[0] = argv[0]
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "PATH="+searchPath)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = streams.In, streams.Out, streams.Err
	if err := m.do(cmd.Start); err != nil {
		return fmt.Errorf("start %s on %s: %w", argv[0], m.name, err)
	}
	return cmd.Wait()
}

func errNoNode(nodes []Node) error {
	names := make([]string, 0, len(nodes))
	for _, node := range nodes {
		names = append(names, node.Name)
	}
	return errors.Join(fmt.Errorf("nodes are %s", strings.Join(names, ", ")), errdefs.ErrNotFound)
}
