package devcluster

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"
)

// kubeletConfig returns a node's KubeletConfiguration.
//
// It asks the API server about whoever calls the kubelet's own API, as a
// production cluster does; never evicts because the machine's disk is nearly
// full; collects no images, since there is no registry to fetch them from
// again; and notices changed ConfigMaps within about 10 s.
func kubeletConfig(l layout, node Node) map[string]any {
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": l.pki("ca.crt")},
		},
		"authorization":               map[string]any{"mode": "Webhook"},
		"tlsCertFile":                 l.pki(node.Name + "-serving.crt"),
		"tlsPrivateKeyFile":           l.pki(node.Name + "-serving.key"),
		"address":                     node.IP.String(),
		"healthzBindAddress":          "127.0.0.1",
		"containerRuntimeEndpoint":    "unix://" + containerdSocket,
		"cgroupDriver":                "cgroupfs",
		"cgroupRoot":                  "/" + l.machine(node.Name).cgroup,
		"failCgroupV1":                false,
		"failSwapOn":                  false,
		"oomScoreAdj":                 0,
		"resolvConf":                  l.config("resolv.conf"),
		"clusterDomain":               "cluster.local",
		"syncFrequency":               "10s",
		"volumePluginDir":             "/var/lib/kubelet/volume-plugins",
		"imageGCHighThresholdPercent": 100,
		"imageGCLowThresholdPercent":  99,
		"serializeImagePulls":         false,
		"evictionHard": map[string]string{
			"memory.available":  "50Mi",
			"nodefs.available":  "1%",
			"nodefs.inodesFree": "1%",
			"imagefs.available": "1%",
		},
	}
}

// proxyConfig returns a node's KubeProxyConfiguration. Settings of the
// kernel's connection tracking belong to the whole machine and stay as they
// are.
func proxyConfig(l layout, node Node) map[string]any {
	return map[string]any{
		"apiVersion":         "kubeproxy.config.k8s.io/v1alpha1",
		"kind":               "KubeProxyConfiguration",
		"clientConnection":   map[string]any{"kubeconfig": l.kubeconfig("kube-proxy")},
		"hostnameOverride":   node.Name,
		"mode":               "iptables",
		"clusterCIDR":        podCIDR,
		"healthzBindAddress": "127.0.0.1:10256",
		"metricsBindAddress": "127.0.0.1:10249",
		"oomScoreAdj":        0,
		"conntrack": map[string]any{
			"maxPerCore": 0, "min": 0,
			"tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
		},
	}
}

// resolvConf is what pods get: there is no cluster DNS, and names outside do
// not resolve either, so a look-up fails at once instead of after a time-out.
const resolvConf = "# The local cluster has no DNS.\n"

func kubeletName(node string) string { return node + "-kubelet" }
func proxyName(node string) string   { return node + "-kube-proxy" }

func (c *Cluster) kubeletDaemon(node Node) daemon {
	return c.kubernetesDaemon(kubeletName(node.Name), "kubelet", node.Name,
		"--config="+c.layout.config(node.Name+"-kubelet.yaml"),
		"--kubeconfig="+c.layout.kubeconfig(node.Name),
		"--root-dir=/var/lib/kubelet",
		"--hostname-override="+node.Name,
		"--node-ip="+node.IP.String(),
	)
}

func (c *Cluster) proxyDaemon(node Node) daemon {
	return c.kubernetesDaemon(proxyName(node.Name), "kube-proxy", node.Name,
		"--config="+c.layout.config(node.Name+"-kube-proxy.yaml"))
}

func (c *Cluster) writeNodeConfig(node Node) error {
	files := map[string]map[string]any{
		c.layout.config(node.Name + "-kubelet.yaml"):    kubeletConfig(c.layout, node),
		c.layout.config(node.Name + "-kube-proxy.yaml"): proxyConfig(c.layout, node),
	}
	for path, config := range files {
		data, err := yaml.Marshal(config)
		if err != nil {
			return fmt.Errorf("encode %s: %w", path, err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return fmt.Errorf("write configuration of %s: %w", node.Name, err)
		}
	}
	if err := os.WriteFile(c.layout.config("resolv.conf"), []byte(resolvConf), 0o644); err != nil {
		return fmt.Errorf("write resolv.conf: %w", err)
	}
	return nil
}

// startKubelets starts what a node runs beside containerd and waits until all
// nodes are ready.
func (c *Cluster) startKubelets(ctx context.Context, say *reporter) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for _, node := range c.state.Nodes {
		group.Go(func() error { return c.startKubelet(groupCtx, node) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	say.printf("kubelets started")
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	return c.recordPodCIDRs(ctx)
}

func (c *Cluster) startKubelet(ctx context.Context, node Node) error {
	if err := c.writeNodeConfig(node); err != nil {
		return err
	}
	if err := c.waitContainerd(ctx, node); err != nil {
		return err
	}
	if err := c.loadImage(ctx, node, c.state.PauseImage); err != nil {
		return err
	}
	if err := c.layout.startDaemon(ctx, c.proxyDaemon(node)); err != nil {
		return err
	}
	return c.layout.startDaemon(ctx, c.kubeletDaemon(node))
}
