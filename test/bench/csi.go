package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/juicefs-csi/driver/test/devcluster"
)

// kubeletDir is that of every node.
const kubeletDir = "/var/lib/kubelet"

// plugin calls the node plugin in kubelet's place, so that many volumes can be
// published without many pods. All targets are in the directory of one pod,
// since the driver takes those of unknown pods away.
type plugin struct {
	csi.NodeClient
	conn *grpc.ClientConn
	// root is the root directory of the node's kubelet, and dir where the targets
	// are below it.
	root, dir string
	secret    map[string]string
	data      string
	// pod are the keys that kubelet adds to the volume context.
	pod map[string]string
}

// connect reaches the node plugin through the root directory of the node's
// kubelet: nodes have mount namespaces of their own.
func (b *bench) connect(ctx context.Context, host string) (*plugin, error) {
	pod, err := b.pod(ctx, host)
	if err != nil {
		return nil, err
	}
	kubelet, err := b.cluster.KubeletPID(node)
	if err != nil {
		return nil, err
	}
	root := path.Join("/proc", strconv.Itoa(kubelet), "root")
	socket := path.Join(root, kubeletDir, "csi-plugins", driverName, "csi.sock")
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to the node plugin: %w", err)
	}
	return &plugin{
		NodeClient: csi.NewNodeClient(conn), conn: conn, data: b.dataDir,
		root: root, dir: path.Join(kubeletDir, "pods", string(pod.UID), "volumes", "kubernetes.io~csi"),
		secret: map[string]string{
			"name": b.namespace, "metaurl": fmt.Sprintf("redis://%s/%d", devcluster.RedisAddress, metadataNumber),
			"storage": "file", "bucket": b.dataDir + "/",
		},
		pod: map[string]string{
			"csi.storage.k8s.io/pod.name": pod.Name, "csi.storage.k8s.io/pod.namespace": pod.Namespace,
			"csi.storage.k8s.io/pod.uid": string(pod.UID), "csi.storage.k8s.io/serviceAccount.name": "default",
		},
	}, nil
}

func (p *plugin) target(name string) string { return path.Join(p.dir, name, "mount") }

// publish publishes a volume at a target of that name and says how long it took.
func (p *plugin) publish(ctx context.Context, volume, name string) (time.Duration, error) {
	attributes := map[string]string{"juicefs/host-path": p.data, "subPath": volume}
	maps.Copy(attributes, p.pod)
	if err := os.MkdirAll(path.Join(p.root, p.dir, name), 0o750); err != nil { // As kubelet does.
		return 0, fmt.Errorf("make directory of a target: %w", err)
	}
	began := time.Now()
	_, err := p.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: volume, TargetPath: p.target(name), Secrets: p.secret, VolumeContext: attributes,
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER},
		},
	})
	if err != nil {
		return 0, fmt.Errorf("publish volume %s: %w", volume, err)
	}
	return time.Since(began), nil
}

func (p *plugin) unpublish(ctx context.Context, volume, name string) error {
	_, err := p.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: volume, TargetPath: p.target(name)})
	if err != nil {
		return fmt.Errorf("unpublish volume %s: %w", volume, err)
	}
	return nil
}

// series publishes volumes one after the other and returns how long each took.
func (p *plugin) series(ctx context.Context, count int, name func(int) (volume, target string)) ([]time.Duration, error) {
	var took []time.Duration
	for i := range count {
		volume, target := name(i)
		each, err := p.publish(ctx, volume, target)
		if err != nil {
			return nil, err
		}
		took = append(took, each)
	}
	return took, nil
}

// clear unpublishes what two series have published.
func (p *plugin) clear(ctx context.Context, count int, name func(int) (volume, target string)) error {
	var failed error
	for i := range count {
		volume, target := name(i)
		failed = errors.Join(failed, p.unpublish(ctx, volume, target))
	}
	return failed
}
