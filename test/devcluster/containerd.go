package devcluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// The paths of containerd and the CNI configuration as a node sees them.
const (
	containerdSocket = "/run/containerd/containerd.sock"
	cniConfigDir     = "/etc/cni/net.d"
	cniConfigFile    = "10-devcluster.conflist"
)

// containerdConfig is for containerd 1.6 and 1.7. restrict_oom_score_adj is
// for machines where root lacks CAP_SYS_RESOURCE: runc cannot lower a
// process's oom_score_adj there, and without it no pod starts.
const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0

[grpc]
  address = "` + containerdSocket + `"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + pauseImageName + `"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "` + cniDir + `"
    conf_dir = "` + cniConfigDir + `"
`

// renderCNI returns the network configuration of a node's pods. Pod addresses
// are not masqueraded: everybody has a route to them.
func renderCNI(node Node) string {
	return fmt.Sprintf(`{
  "cniVersion": "0.4.0",
  "name": "devcluster",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipMasq": false,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": %q}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, node.PodCIDR)
}

func containerdName(node string) string { return node + "-containerd" }

func (c *Cluster) containerdDaemon(node Node) (daemon, error) {
	path, err := lookTool("containerd")
	if err != nil {
		return daemon{}, err
	}
	return daemon{
		name:    containerdName(node.Name),
		machine: c.layout.machine(node.Name),
		path:    path,
		args:    []string{"--config", c.layout.config("containerd.toml"), "--log-level", "info"},
	}, nil
}

// startContainerd returns as soon as the program runs; waitContainerd waits
// for its socket.
func (c *Cluster) startContainerd(ctx context.Context, node Node) error {
	if err := os.WriteFile(c.layout.config("containerd.toml"), []byte(containerdConfig), 0o600); err != nil {
		return fmt.Errorf("write containerd configuration: %w", err)
	}
	cni := filepath.Join(c.layout.nodeDir(node.Name, dirID(cniConfigDir)), cniConfigFile)
	if err := os.WriteFile(cni, []byte(renderCNI(node)), 0o600); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	d, err := c.containerdDaemon(node)
	if err != nil {
		return err
	}
	return c.layout.startDaemon(ctx, d)
}

func (c *Cluster) waitContainerd(ctx context.Context, node Node) error {
	m := c.layout.machine(node.Name)
	return c.wait(ctx, "containerd of "+node.Name, func(ctx context.Context) (bool, error) {
		err := m.do(func() error { return tryDial(ctx, "unix", containerdSocket) })
		return err == nil, err
	})
}

// tryDial says whether somebody listens.
func tryDial(ctx context.Context, network, address string) error {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	return conn.Close()
}
