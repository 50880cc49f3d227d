//go:build kernel

package launch_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/clienttest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch"
)

func kernelProgram(arguments []string) (code int, known bool) {
	if arguments[0] != clienttest.WorkloadProgram {
		return 0, false
	}
	return clienttest.RunWorkload(os.Stdout, arguments[1], arguments[2]), true
}

// program is a jfs-launch of its own process, as in a pod.
type program struct {
	t       *testing.T
	command *exec.Cmd
	socket  string
}

func startProgram(t *testing.T) *program {
	t.Helper()
	p := &program{t: t, socket: filepath.Join(t.TempDir(), "launch.sock")}
	if err := os.WriteFile(p.socket+".termination", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.command = exec.Command(executable(t), "jfs-launch", p.socket)
	p.command.Stdout, p.command.Stderr = os.Stderr, os.Stderr
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	// The mount is gone by now; what served it ends by itself and cleans up.
	t.Cleanup(func() {
		timer := time.AfterFunc(patience, func() { _ = p.command.Process.Kill() })
		defer timer.Stop()
		_, _ = p.command.Process.Wait()
	})
	return p
}

func (p *program) exits(want int) {
	p.t.Helper()
	timer := time.AfterFunc(patience, func() { _ = p.command.Process.Kill() })
	defer timer.Stop()
	state, err := p.command.Process.Wait()
	if err != nil || state.ExitCode() != want {
		p.t.Fatalf("%v, %v, want exit code %d", state, err, want)
	}
}

// startGood starts a client on a new mount until it returns good settings, as
// the mount manager does for a client version that it does not know yet.
func startGood(t *testing.T, fs clienttest.FileSystem, settings []byte) (*program, *manager, *clienttest.Mount, []byte) {
	t.Helper()
	for range 20 {
		p := startProgram(t)
		m := connect(t, p.socket)
		m.hello()
		mount, descriptor := clienttest.NewMount(t)
		spec := &launchv1.Spec{MountId: "m", Client: &launchv1.Process{Argv: fs.ClientArgv(mount.Path)}}
		m.call(start(&launchv1.Start{Spec: spec, Settings: settings}), descriptor)
		descriptor.Close()
		if got := m.serving().GetSettings(); clientfd.ValidSettings(got) {
			return p, m, mount, got
		}
		mount.Unmount(t)
		m.ended(false)
		p.exits(0)
	}
	t.Fatal("never got settings")
	return nil, nil, nil, nil
}

func versions() []string { return []string{"1.4.2", "1.3.1"} }

func TestRealClientServes(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			fs := clienttest.Format(t, clienttest.Binary(t, version))
			_, m, mount, settings := startGood(t, fs, nil)
			mount.Run(t, "sh", "-c", "echo hello > file && sync file")
			if got := mount.Run(t, "cat", "file"); got != "hello\n" {
				t.Errorf("read %q", got)
			}
			if pid := mount.Config(t).Pid; int32(pid) != m.status().GetClientPid() {
				t.Errorf("pid %d, want %d", pid, m.status().GetClientPid())
			}
			for range 3 { // known settings come back each time
				p, m, mount, got := startGood(t, fs, settings)
				if string(got) != string(settings) {
					t.Errorf("settings %x, want %x", got, settings)
				}
				mount.Unmount(t)
				m.ended(false)
				p.exits(0)
			}
		})
	}
}

func TestRealClientIsKilled(t *testing.T) {
	fs := clienttest.Format(t, clienttest.Binary(t, clienttest.DefaultVersion))
	_, m, mount, _ := startGood(t, fs, nil)
	session := mount.Config(t).Meta.Sid
	m.call(&launchv1.Command{Operation: &launchv1.Command_SetSession{SetSession: &launchv1.SetSession{SessionId: session}}})
	work := mount.StartWorkload(t, "reader")
	for range 3 {
		pid := m.status().GetClientPid()
		if err := unix.Kill(int(pid), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		m.ended(true)
		m.serving()
		if config := mount.Config(t); config.Meta.Sid != session || int32(config.Pid) == pid {
			t.Errorf("got %+v, want session %d", config, session)
		}
	}
	report := work.Stop()
	t.Logf("%+v", report)
	// Level 0: a request that the killed client had read is re-asked. One that it
	// was copying is failed by the kernel with EIO (fuse_dev_do_read), which no
	// process can mend: rare, and never twice in a few kills.
	failed := 0
	for text, count := range report.Errors {
		switch {
		case strings.Contains(text, "interrupted"):
		case strings.Contains(text, "input/output error"):
			failed += count
		default:
			t.Errorf("%d times %s", count, text)
		}
	}
	if failed > 1 {
		t.Errorf("%d operations failed with EIO, want at most the one that the kernel gave to a dying client", failed)
	}
}

func TestRealHandOver(t *testing.T) {
	for name, clients := range map[string][]string{
		"same version": {clienttest.DefaultVersion, clienttest.DefaultVersion},
		"in turn":      versions(),
	} {
		t.Run(name, func(t *testing.T) {
			fs := clienttest.Format(t, clienttest.Binary(t, clients[0]))
			p, m, mount, settings := startGood(t, fs, nil)
			defer mount.Abort(t) // before the end of the clients is awaited
			session := mount.Config(t).Meta.Sid
			work := mount.StartWorkload(t, "full")
			var pauses []time.Duration
			for round := range 6 {
				fs.Binary = clienttest.Binary(t, clients[(round+1)%2])
				next, pause := handOver(t, m, mount, fs, session, settings)
				pauses = append(pauses, pause)
				_ = m.conn.Close()
				p.exits(0)
				p, m = next.program, next.manager
			}
			report := work.Stop()
			t.Logf("%+v, pauses %v", report, pauses)
			if len(report.Errors) > 0 || report.Operations < 1000 {
				t.Errorf("%+v", report)
			}
			if got := mount.Config(t); got.Meta.Sid != session {
				t.Errorf("session %d, want %d", got.Meta.Sid, session)
			}
		})
	}
}

type successor struct {
	program *program
	manager *manager
}

// handOver moves mount from the client of old to a new one, as the mount
// manager does.
func handOver(
	t *testing.T, old *manager, mount *clienttest.Mount, fs clienttest.FileSystem, session uint64, settings []byte,
) (successor, time.Duration) {
	t.Helper()
	borrowed := old.call(&launchv1.Command{Operation: &launchv1.Command_Borrow{}})
	p := startProgram(t)
	m := connect(t, p.socket)
	m.hello()
	m.call(start(&launchv1.Start{
		Spec:     &launchv1.Spec{MountId: "m", Client: &launchv1.Process{Argv: fs.ClientArgv(mount.Path)}},
		Settings: settings, SessionId: session, WaitForRelease: true, SkipStages: true,
	}), borrowed.files...)
	borrowed.files[0].Close()
	if event := m.next(); event.GetWaiting() == nil {
		t.Fatalf("got %v", event)
	}
	begin := time.Now()
	result := old.send(handOff(15 * time.Second))
	ended := make(chan struct{})
	go wakeReaders(mount.Path, ended)
	a := old.await(result)
	close(ended)
	if !a.reply.GetHandOff().GetHasState() {
		t.Fatalf("got %v", a.reply)
	}
	m.call(release(session), a.files...)
	m.serving()
	return successor{p, m}, time.Since(begin)
}

// wakeReaders asks the file system for something every few milliseconds,
// because the old client's readers only end when they get a request.
func wakeReaders(path string, ended <-chan struct{}) {
	ticker := time.NewTicker(4 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return
		case <-ticker.C:
			helper := exec.Command("timeout", "1", "stat", "-f", path)
			if helper.Start() == nil {
				go func() { _ = helper.Wait() }()
			}
		}
	}
}

// An unprivileged client that waits and is released without a state serves.
func TestRealReleaseWithoutState(t *testing.T) {
	fs := clienttest.Format(t, clienttest.Binary(t, clienttest.DefaultVersion))
	p := startProgram(t)
	m := connect(t, p.socket)
	m.hello()
	mount, descriptor := clienttest.NewMount(t)
	spec := &launchv1.Spec{MountId: "m", Client: &launchv1.Process{Argv: fs.ClientArgv(mount.Path)}}
	m.call(start(&launchv1.Start{Spec: spec, WaitForRelease: true}), descriptor)
	descriptor.Close()
	if event := m.next(); event.GetWaiting() == nil {
		t.Fatalf("got %v", event)
	}
	m.call(release(0))
	m.serving()
	mount.Run(t, "sh", "-c", "exec 3> file && echo hello >&3 && exec 3>&- && test hello = $(cat file)")
}

func TestRealFailureIsExplained(t *testing.T) {
	fs := clienttest.Format(t, clienttest.Binary(t, clienttest.DefaultVersion))
	const password = "correct-horse"
	meta := "redis://:" + password + "@127.0.0.1:1/1"
	p := startProgram(t)
	m := connect(t, p.socket)
	m.hello()
	mount, descriptor := clienttest.NewMount(t)
	fs.Meta = "sqlite3:///nowhere/at-all.db"
	spec := &launchv1.Spec{
		Client: &launchv1.Process{Argv: fs.ClientArgv(mount.Path)},
		Env:    []*launchv1.EnvVar{{Name: "META_PASSWORD", Value: password}},
		Stages: []*launchv1.Stage{{
			Name:    "format",
			Process: &launchv1.Process{Argv: []string{fs.Binary, "format", "--storage=file", "--bucket=/nowhere", meta, "Not_A_Name", password}},
			Timeout: durationpb.New(patience),
		}},
	}
	m.call(start(&launchv1.Start{Spec: spec}), descriptor)
	_, last, _ := m.stages()
	text := strings.Join(last.GetExit().GetStderr(), "\n")
	if last.GetSucceeded() || !strings.Contains(text, "at most 2 arguments") || strings.Contains(text, password) {
		t.Errorf("got %v", last)
	}
	spec.Stages = nil
	m.call(start(&launchv1.Start{Spec: spec}), descriptor)
	descriptor.Close()
	if exit := m.ended(false); exit.GetCode() != 1 || !strings.Contains(strings.Join(exit.GetStderr(), "\n"), "FATAL") {
		t.Errorf("got %v", exit)
	}
	_ = m.conn.Close()
	p.exits(1)
	data, err := os.ReadFile(p.socket + ".termination")
	if err != nil {
		t.Fatal(err)
	}
	var message launch.Termination
	err = json.Unmarshal(data, &message)
	if err != nil || message.Stage != "client" || message.Code != 1 || strings.Contains(string(data), password) {
		t.Errorf("got %s, %v", data, err)
	}
}
