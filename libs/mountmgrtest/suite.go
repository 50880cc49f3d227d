package mountmgrtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

// callTimeout bounds each call of the suite: a cold publish starts a client.
const callTimeout = 2 * time.Minute

// Subject is the mount manager that a test of the suite runs on.
type Subject struct {
	Client mountmgrv1.MountManagerServiceClient
	// TargetDir is an empty directory below the kubelet directory.
	TargetDir string
	// Prepare adds to a request what a volume needs to be mounted, such as
	// secrets. May be nil.
	Prepare func(*mountmgrv1.PublishVolumeRequest)
}

// Suite tests the contract of the mount manager. newSubject is called for each
// test and may return the same mount manager each time with another TargetDir;
// the tests unpublish what they publish.
func Suite(t *testing.T, newSubject func(t *testing.T) Subject) {
	t.Helper()
	tests := []struct {
		name string
		test func(s *suite)
	}{
		{"handshake tells versions", testHandshake},
		{"handshake refuses other versions", testHandshakeVersions},
		{"publish is idempotent", testPublishTwice},
		{"publish shares a mount", testPublishShares},
		{"publish keeps what a target shows", testPublishOther},
		{"publish keeps single writers single", testPublishSingleWriter},
		{"publish checks requests", testPublishInvalid},
		{"unpublish is idempotent", testUnpublishTwice},
		{"unpublish checks requests", testUnpublishInvalid},
		{"stats", testStats},
		{"get and list", testGetAndList},
		{"watch", testWatch},
		{"upgrade of an unknown mount", testUpgradeUnknown},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
			defer cancel()
			test.test(&suite{T: t, Subject: newSubject(t), ctx: ctx})
		})
	}
}

// suite is one test's subject with helpers.
type suite struct {
	*testing.T
	Subject
	ctx context.Context //nolint:containedctx // belongs to the test that this value is made for
}

func (s *suite) target(name string) string { return filepath.Join(s.TargetDir, name) }

func (s *suite) request(volumeID, targetName string) *mountmgrv1.PublishVolumeRequest {
	request := &mountmgrv1.PublishVolumeRequest{
		VolumeId: volumeID, TargetPath: s.target(targetName),
		AccessMode: mountmgrv1.AccessMode_ACCESS_MODE_MULTI_NODE_MULTI_WRITER,
		Pod: &mountmgrv1.PodReference{
			Namespace: "default", Name: "app-" + targetName, Uid: "uid-" + targetName, ServiceAccount: "default",
		},
	}
	if s.Prepare != nil {
		s.Prepare(request)
	}
	return request
}

// publish publishes, and unpublishes when the test is over.
func (s *suite) publish(request *mountmgrv1.PublishVolumeRequest) *mountmgrv1.PublishVolumeResponse {
	s.Helper()
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), callTimeout)
		defer cancel()
		_, err := s.Client.UnpublishVolume(ctx, &mountmgrv1.UnpublishVolumeRequest{
			VolumeId: request.GetVolumeId(), TargetPath: request.GetTargetPath(),
		})
		if err != nil {
			s.Errorf("clean up: UnpublishVolume(%s): %v", request.GetTargetPath(), err)
		}
	})
	response, err := s.Client.PublishVolume(s.ctx, request)
	if err != nil {
		s.Fatalf("PublishVolume(%s, %s): %v", request.GetVolumeId(), request.GetTargetPath(), err)
	}
	return response
}

func (s *suite) unpublish(request *mountmgrv1.PublishVolumeRequest) {
	s.Helper()
	_, err := s.Client.UnpublishVolume(s.ctx, &mountmgrv1.UnpublishVolumeRequest{
		VolumeId: request.GetVolumeId(), TargetPath: request.GetTargetPath(),
	})
	if err != nil {
		s.Fatalf("UnpublishVolume(%s): %v", request.GetTargetPath(), err)
	}
	if _, err := os.Lstat(request.GetTargetPath()); !errors.Is(err, os.ErrNotExist) {
		s.Errorf("target %s after UnpublishVolume: %v, want none", request.GetTargetPath(), err)
	}
}

// wantCode checks the code of an error, whether it comes as status or mapped to
// errdefs.
func (s *suite) wantCode(call string, err error, want ...codes.Code) {
	s.Helper()
	got := status.Code(errgrpc.ToGRPC(err))
	if !slices.Contains(want, got) {
		s.Errorf("%s: %v (%v), want %v", call, got, err, want)
	}
}
