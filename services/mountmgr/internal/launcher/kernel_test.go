//go:build kernel

package launcher_test

import (
	"os"
	"testing"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

func TestBorrowReturnsAFuseDevice(t *testing.T) {
	fuse, err := os.Open("/dev/fuse") // No connection: its kind is what counts.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fuse.Close() })
	s := newStandIn(t)
	session := s.session()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		s.reply(&launchv1.Reply{Id: s.receive(nil).GetId(), Result: &launchv1.Reply_Borrow{
			Borrow: &launchv1.BorrowResult{Settings: []byte("init")},
		}}, fuse)
	}()
	settings, borrowed, err := session.Borrow(t.Context())
	<-answered
	if err != nil {
		t.Fatal(err)
	}
	if string(settings) != "init" || borrowed.Fd() == fuse.Fd() {
		t.Errorf("borrowed descriptor %d of %d with settings %q", borrowed.Fd(), fuse.Fd(), settings)
	}
	_ = borrowed.Close()
}
