package launcher_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/juicefs-csi/driver/libs/apiversion"
	"github.com/juicefs-csi/driver/libs/fdpass"
	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launcher"
)

const podUID = "0f3c"

// ourselves is who the stand-in runs as.
func ourselves() uint32 { return uint32(os.Geteuid()) }

// standIn plays the jfs-launch of a mount pod: it sends what a test tells it to.
type standIn struct {
	t        *testing.T
	podsDir  string
	listener *fdpass.Listener
	conn     *fdpass.Conn
}

// newStandIn listens where kubelet puts the socket of the pod.
func newStandIn(t *testing.T) *standIn {
	t.Helper()
	podsDir := t.TempDir()
	directory := filepath.Join(podsDir, podUID, "volumes", "kubernetes.io~empty-dir", launcher.VolumeName)
	if err := os.MkdirAll(directory, 0o750); err != nil {
		t.Fatal(err)
	}
	listener, err := fdpass.Listen(filepath.Join(directory, launcher.SocketName), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return &standIn{t: t, podsDir: podsDir, listener: listener}
}

func hello(version uint32) *launchv1.Message {
	return event(&launchv1.Event{Event: &launchv1.Event_Hello{Hello: &launchv1.Hello{
		Version: version, MinVersion: version, Status: &launchv1.Status{State: launchv1.Status_STATE_SERVING, MountId: "m"},
	}}})
}

func event(e *launchv1.Event) *launchv1.Message {
	return &launchv1.Message{Content: &launchv1.Message_Event{Event: e}}
}

// accept takes the next connection and greets with first.
func (s *standIn) accept(first *launchv1.Message, files ...*os.File) {
	s.t.Helper()
	conn, err := s.listener.Accept()
	if err != nil {
		s.t.Error(err)
		return
	}
	s.conn = conn
	s.t.Cleanup(func() { _ = conn.Close() })
	s.send(first, files...)
}

func (s *standIn) send(message *launchv1.Message, files ...*os.File) {
	s.t.Helper()
	if err := s.conn.Send(s.t.Context(), message, files...); err != nil {
		s.t.Error(err)
	}
}

// receive reads one command, and closes what comes with it after looking.
func (s *standIn) receive(look func(files []*os.File)) *launchv1.Command {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	command := new(launchv1.Command)
	files, err := s.conn.Receive(ctx, command)
	if err != nil {
		s.t.Error(err)
		return command
	}
	if look != nil {
		look(files)
	}
	fdpass.CloseFiles(files)
	return command
}

func (s *standIn) reply(reply *launchv1.Reply, files ...*os.File) {
	s.t.Helper()
	s.send(&launchv1.Message{Content: &launchv1.Message_Reply{Reply: reply}}, files...)
}

func failure(id uint64, code codes.Code) *launchv1.Reply {
	return &launchv1.Reply{Id: id, Failure: &launchv1.Failure{Code: uint32(code), Message: "told so"}}
}

// session connects to the stand-in.
func (s *standIn) session() *launcher.Session {
	s.t.Helper()
	greeted := make(chan struct{})
	go func() {
		defer close(greeted)
		s.accept(hello(apiversion.Launch().Version))
	}()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	session, err := launcher.Connect(ctx, s.podsDir, podUID, ourselves())
	if err != nil {
		s.t.Fatal(err)
	}
	<-greeted
	s.t.Cleanup(session.Close)
	return session
}
