package launch_test

import (
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

func TestHandOverToAWaitingClient(t *testing.T) {
	old, next := serve(t), serve(t)
	from, to := connect(t, old.socket), connect(t, next.socket)
	from.hello()
	to.hello()
	descriptor, _ := connection(t)
	from.call(start(&launchv1.Start{Spec: old.spec(t, "")}), descriptor)
	settings := from.serving().GetSettings()
	pid := from.status().GetClientPid()
	to.call(start(&launchv1.Start{
		Spec: next.spec(t, ""), Settings: settings, SessionId: 5, WaitForRelease: true, SkipStages: true,
	}), descriptor)
	if event := to.next(); event.GetWaiting() == nil {
		t.Fatalf("got %v", event)
	}
	if status := to.status(); status.GetState() != launchv1.Status_STATE_WAITING || !status.GetHoldsDescriptor() {
		t.Fatalf("got %v", status)
	}
	a := from.call(handOff(patience))
	if !a.reply.GetHandOff().GetHasState() || len(a.files) != 1 {
		t.Fatalf("got %v with %d files", a.reply, len(a.files))
	}
	to.call(release(6), a.files...)
	to.serving()
	contains(t, next.record(t, to.status().GetClientPid()), "_JFS_META_SID=5\n", "STATE=state of "+itoa(pid))
	if status := from.status(); status.GetState() != launchv1.Status_STATE_HANDED_OFF || status.GetHoldsDescriptor() {
		t.Errorf("got %v", status)
	}
	_ = from.conn.Close()
	old.exits(t, 0)
}

func TestReleaseWithoutState(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, ""), WaitForRelease: true}), descriptor)
	m.next()
	m.call(release(0))
	m.serving()
	contains(t, s.record(t, m.status().GetClientPid()), `STATE={"Handler":{},"NextFh":2}`)
}

func TestStartWithState(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	state := stateFile(t, "given state")
	if _, err := io.Copy(io.Discard, state); err != nil { // its position must not matter
		t.Fatal(err)
	}
	m.call(start(&launchv1.Start{Spec: s.spec(t, ""), HasState: true, SessionId: 9}), descriptor, state)
	m.serving()
	contains(t, s.record(t, m.status().GetClientPid()), "_JFS_META_SID=9\n", "STATE=given state")
}

func TestWaitingClientThatDies(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, ""), WaitForRelease: true}), descriptor)
	m.next()
	if err := unix.Kill(int(m.status().GetClientPid()), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.ended(false)
	m.refused(failedPrecondition, release(0))
}

func TestBusyClientServesOn(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, "busy")}), descriptor)
	m.serving()
	pid := m.status().GetClientPid()
	m.refused(deadlineExceeded, handOff(20*time.Millisecond))
	status := m.status()
	if status.GetState() != launchv1.Status_STATE_SERVING || status.GetClientPid() != pid || !status.GetHoldsDescriptor() {
		t.Errorf("got %v", status)
	}
}

func TestHandOffWithoutState(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, "no-state")}), descriptor)
	m.serving()
	if a := m.call(handOff(patience)); a.reply.GetHandOff().GetHasState() || len(a.files) != 0 {
		t.Errorf("got %v with %d files", a.reply, len(a.files))
	}
}

// The client is gone and its state is here: when nobody takes it, the mount
// must not stay without a client.
func TestHandOffWhoseAnswerIsLost(t *testing.T) {
	s := serve(t)
	m := connect(t, s.socket)
	m.hello()
	descriptor, _ := connection(t)
	m.call(start(&launchv1.Start{Spec: s.spec(t, "")}), descriptor)
	m.serving()
	pid := m.status().GetClientPid()
	if err := unix.Kill(int(pid), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	m.send(handOff(patience))
	m.status() // the command was handled
	_ = m.conn.Close()
	again := connect(t, s.socket)
	again.hello()
	if err := unix.Kill(int(pid), unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	again.serving()
	contains(t, s.record(t, again.status().GetClientPid()), "STATE=state of "+itoa(pid))
}
