//go:build kernel

package launch_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clienttest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch"
)

// startPod starts the real program as a mount pod would: PID 1 of its own
// namespace, its own /tmp, root without any capability, no mount of ours in
// sight. It returns the program's process id here.
func startPod(t *testing.T) (*program, int) {
	t.Helper()
	directory := t.TempDir()
	binary := filepath.Join(directory, launch.Program)
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", binary, "../../cmd/jfs-launch")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, output)
	}
	if err := launch.Install(binary, filepath.Join(directory, "installed")); err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, socket: filepath.Join(directory, "launch.sock")}
	p.command = exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
		`mount -t tmpfs none /tmp && exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"`, "sh",
		filepath.Join(directory, "installed", launch.Program), "serve", "--socket="+p.socket)
	p.command.Stdout, p.command.Stderr = os.Stderr, os.Stderr
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.command.Process.Kill()
		_, _ = p.command.Process.Wait()
	})
	connect(t, p.socket).hello()
	return p, onlyChild(t, p.command.Process.Pid)
}

// onlyChild finds the child of a process, whichever of its threads started it.
func onlyChild(t *testing.T, pid int) int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	var children string
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		children += string(data)
	}
	child, err := strconv.Atoi(strings.TrimSpace(children))
	if err != nil {
		t.Fatalf("children %q", children)
	}
	return child
}

// field reads a line of /proc/PID/status.
func field(t *testing.T, pid int, name string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, found := strings.CutPrefix(line, name+":"); found {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no %s in status", name)
	return ""
}

func TestRealPod(t *testing.T) {
	// The pod has a /tmp of its own, so what both sides see is elsewhere.
	t.Setenv("TMPDIR", "/var/tmp")
	fs := clienttest.Format(t, clienttest.Binary(t, clienttest.DefaultVersion))
	p, pid := startPod(t)
	t.Logf("idle: %s resident", field(t, pid, "VmRSS"))
	m := connect(t, p.socket)
	m.hello()
	mount, descriptor := clienttest.NewMount(t)
	m.call(start(&launchv1.Start{Spec: &launchv1.Spec{MountId: "m", Client: &launchv1.Process{Argv: fs.ClientArgv(mount.Path)}}}), descriptor)
	descriptor.Close()
	m.serving()
	client := onlyChild(t, pid)
	if got := field(t, client, "CapEff"); got != "0000000000000000" {
		t.Errorf("the client has capabilities %s", got)
	}
	if mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", client)); err != nil || strings.Contains(string(mounts), mount.Path) {
		t.Errorf("the client sees the mount (%v)", err)
	}
	session := mount.Config(t).Meta.Sid
	m.call(&launchv1.Command{Operation: &launchv1.Command_SetSession{SetSession: &launchv1.SetSession{SessionId: session}}})

	if err := unix.Kill(pid, unix.SIGTERM); err != nil { // kubelet
		t.Fatal(err)
	}
	if event := m.next(); event.GetTerminating() == nil {
		t.Fatalf("got %v", event)
	}
	_ = m.conn.Close() // and the mount manager is away as well
	if err := unix.Kill(client, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := mount.Config(t); got.Meta.Sid != session || got.PPid != 1 {
		t.Errorf("got %+v, want session %d", got, session)
	}
	t.Logf("serving: %s resident, %s at most", field(t, pid, "VmRSS"), field(t, pid, "VmHWM"))
	m = connect(t, p.socket)
	status := m.hello()
	if status.GetRestarts() != 1 || !status.GetTerminating() {
		t.Errorf("got %v", status)
	}
	if status.GetState() != launchv1.Status_STATE_SERVING {
		m.serving() // it answers a little before it gives the descriptor back
	}
	mount.Unmount(t)
	m.ended(false)
	p.exits(0)
}
