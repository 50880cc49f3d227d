package nodetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/juicefs-csi/driver/libs/mountinfo"
)

// Container is a process of an application pod in a mount namespace that gets
// no mount events from the node, as volumes without mountPropagation are.
type Container struct {
	node *Node
	cmd  *exec.Cmd
}

// Mount is a bind mount of a container.
type Mount struct {
	Source, Path string
	ReadOnly     bool
}

// containerProgram makes the bind mounts that its arguments list as triples,
// says so, and waits.
const containerProgram = `set -e
while [ $# -gt 0 ]; do
  if [ -d "$1" ]; then mkdir -p "$2"; else mkdir -p "$(dirname "$2")"; touch "$2"; fi
  mount --bind "$1" "$2"
  if [ "$3" = ro ]; then mount -o remount,bind,ro "$2"; fi
  shift 3
done
echo ready
exec sleep 1000000
`

// StartContainer starts a container of the pod of Target(name), with these
// mounts. It ends with the test.
func (n *Node) StartContainer(name string, mounts ...Mount) *Container {
	n.tb.Helper()
	arguments := []string{"--mount", "--propagation", "private", "sh", "-c", containerProgram, "sh"}
	for _, mount := range mounts {
		access := "rw"
		if mount.ReadOnly {
			access = "ro"
		}
		arguments = append(arguments, mount.Source, mount.Path, access)
	}
	c := &Container{node: n, cmd: exec.Command("unshare", arguments...)} //nolint:noctx // It lives until the test ends.
	output, err := c.cmd.StdoutPipe()
	if err != nil {
		n.tb.Fatal(err)
	}
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		n.tb.Fatal(err)
	}
	n.tb.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	})
	n.joinCgroup("podapp-"+name, c.cmd.Process.Pid)
	said := make([]byte, len("ready"))
	if _, err := output.Read(said); err != nil || string(said) != "ready" {
		n.tb.Fatalf("container %s said %q: %v", name, said, err)
	}
	return c
}

// Command runs a program in the container.
func (c *Container) Command(name string, args ...string) (string, error) {
	return c.node.Command("nsenter", append([]string{"--target", strconv.Itoa(c.cmd.Process.Pid), "--mount", name}, args...)...)
}

// joinCgroup puts a process into a cgroup of its own, by which its pod is
// known.
func (n *Node) joinCgroup(name string, pid int) {
	n.tb.Helper()
	entries, err := mountinfo.All()
	if err != nil {
		n.tb.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.FSType, "cgroup") {
			continue
		}
		directory := filepath.Join(entry.Path, filepath.Base(n.Dir)+"-"+name)
		if os.Mkdir(directory, 0o755) != nil { //nolint:gosec // as systemd does
			continue
		}
		n.tb.Cleanup(func() { _ = removeCgroup(directory) })
		procs := filepath.Join(directory, "cgroup.procs")
		if os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0o600) == nil {
			return
		}
	}
	n.tb.Fatal("no cgroup can be made")
}

// removeCgroup waits until the processes of a cgroup have ended.
func removeCgroup(directory string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := os.Remove(directory)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup: %w", err)
		case <-ticker.C:
		}
	}
}

// Stop ends the container.
func (c *Container) Stop() error {
	if err := c.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill container: %w", err)
	}
	_ = c.cmd.Wait() // It was killed.
	return nil
}
