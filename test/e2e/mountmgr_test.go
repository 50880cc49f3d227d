//go:build e2e

package e2e

import (
	"errors"
	"io"
	"path"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

// mountManager connects to the mount manager of a node, through the root
// directory of the node's kubelet: nodes have mount namespaces of their own.
func (s *scene) mountManager(node string) mountmgrv1.MountManagerServiceClient {
	s.Helper()
	kubelet, err := env.cluster.KubeletPID(node)
	s.must(err)
	socket := path.Join("/proc", strconv.Itoa(kubelet), "root/run/juicefs-csi/mountmgr/mountmgr.sock")
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	s.must(err)
	s.Cleanup(func() { _ = conn.Close() })
	return mountmgrv1.NewMountManagerServiceClient(conn)
}

// upgrade replaces the client of a volume's mount and waits until that is done.
func (s *scene) upgrade(node, volume string) {
	s.Helper()
	manager := s.mountManager(node)
	list, err := manager.ListMounts(s.ctx, &mountmgrv1.ListMountsRequest{VolumeId: volume})
	s.must(err)
	if len(list.GetMounts()) != 1 {
		s.Fatalf("%d mounts of volume %s", len(list.GetMounts()), volume)
	}
	stream, err := manager.UpgradeMount(s.ctx, &mountmgrv1.UpgradeMountRequest{
		MountId: list.GetMounts()[0].GetId(), Method: mountmgrv1.UpgradeMethod_UPGRADE_METHOD_RECREATE,
	})
	s.must(err)
	var last *mountmgrv1.Upgrade
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		s.must(err)
		last = response.GetUpgrade()
	}
	if last.GetPhase() != mountmgrv1.UpgradePhase_UPGRADE_PHASE_COMMITTED {
		s.Errorf("upgrade of volume %s: %v", volume, last)
	}
}
