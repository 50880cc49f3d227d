//go:build kernel

package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/juicefs-csi/driver/libs/mountmgrtest"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/nodetest"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/server"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

func TestTheMountManagerPassesTheSuite(t *testing.T) {
	n := nodetest.NewNode(t)
	client := mountmgrtest.Dial(t, mountmgrtest.Serve(t, server.New(n.Manager, "node", nodetest.Namespace)))
	tests := 0
	mountmgrtest.Suite(t, func(t *testing.T) mountmgrtest.Subject {
		t.Helper()
		tests++
		directory := filepath.Join(n.KubeletDir(), fmt.Sprintf("suite-%d", tests))
		if err := os.Mkdir(directory, 0o750); err != nil {
			t.Fatal(err)
		}
		return mountmgrtest.Subject{Client: client, TargetDir: directory, Prepare: func(request *mountmgrv1.PublishVolumeRequest) {
			request.Secrets, request.VolumeContext = n.Secret(request.GetVolumeId()), n.Attributes()
		}}
	})
}
