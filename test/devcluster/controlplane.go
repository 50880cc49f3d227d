package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// auditPolicy logs who asked for what, without bodies, for requests of
// service accounts: the driver's and the built-in controllers'. Only complete
// requests are logged: the stages RequestReceived and ResponseStarted (of
// watches) would count them twice.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
`

// kubernetesDaemon is one of the programs in the Kubernetes binary.
func (c *Cluster) kubernetesDaemon(name, program, machine string, flags ...string) daemon {
	return daemon{
		name:    name,
		machine: c.layout.machine(machine),
		path:    c.state.KubernetesBinary,
		args:    append([]string{program}, flags...),
	}
}

// etcdFlags turn fsync off: a development cluster does not outlive its
// machine, and every API write would wait for the disk. Say so beside any
// published figure.
func etcdFlags(l layout) []string {
	return []string{
		"--name=devcluster",
		"--data-dir=" + l.path("etcd"),
		"--unsafe-no-fsync",
		"--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=devcluster=http://127.0.0.1:2380",
		"--log-level=warn",
	}
}

func apiServerFlags(l layout) []string {
	return []string{
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + ControlPlaneIP,
		"--secure-port=" + strconv.Itoa(APIServerPort),
		"--service-cluster-ip-range=" + serviceCIDR,
		"--allow-privileged=true",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--client-ca-file=" + l.pki("ca.crt"),
		"--tls-cert-file=" + l.pki("apiserver.crt"),
		"--tls-private-key-file=" + l.pki("apiserver.key"),
		"--kubelet-client-certificate=" + l.pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + l.pki("apiserver-kubelet-client.key"),
		"--kubelet-certificate-authority=" + l.pki("ca.crt"),
		"--kubelet-preferred-address-types=InternalIP", // node names do not resolve
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + l.pki("service-account.pub"),
		"--service-account-signing-key-file=" + l.pki("service-account.key"),
		"--requestheader-client-ca-file=" + l.pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + l.pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + l.pki("front-proxy-client.key"),
		// Webhooks and aggregated APIs are called at their pods' addresses.
		"--enable-aggregator-routing=true",
		"--audit-policy-file=" + l.config("audit-policy.yaml"),
		"--audit-log-path=" + l.auditLog(),
	}
}

func controllerManagerFlags(l layout) []string {
	kubeconfig := l.kubeconfig("controller-manager")
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + l.pki("service-account.key"),
		"--root-ca-file=" + l.pki("ca.crt"),
		"--cluster-signing-cert-file=" + l.pki("ca.crt"),
		"--cluster-signing-key-file=" + l.pki("ca.key"),
		"--cluster-cidr=" + podCIDR,
		"--flex-volume-plugin-dir=" + l.path("flex-volume"), // not in the machine's /usr/libexec
		"--allocate-node-cidrs=false",                       // each node's block follows from its number
	}
}

func schedulerFlags(l layout) []string {
	kubeconfig := l.kubeconfig("scheduler")
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
	}
}

// startControlPlane also starts the nodes' containerd: both take seconds and
// neither needs the other.
func (c *Cluster) startControlPlane(ctx context.Context, say *reporter) error {
	if err := os.WriteFile(c.layout.config("audit-policy.yaml"), []byte(auditPolicy), 0o600); err != nil {
		return fmt.Errorf("write audit policy: %w", err)
	}
	for _, d := range []daemon{
		c.kubernetesDaemon("etcd", "etcd", controlPlaneName, etcdFlags(c.layout)...),
		c.kubernetesDaemon("kube-apiserver", "kube-apiserver", controlPlaneName, apiServerFlags(c.layout)...),
	} {
		if err := c.layout.startDaemon(ctx, d); err != nil {
			return err
		}
	}
	for _, node := range c.state.Nodes {
		if err := c.startContainerd(ctx, node); err != nil {
			return err
		}
	}
	if err := c.waitAPIServer(ctx); err != nil {
		return err
	}
	say.printf("API server https://%s:%d", ControlPlaneIP, APIServerPort)
	// These two end when the API server does not let them in yet.
	for _, d := range []daemon{
		c.kubernetesDaemon("kube-controller-manager", "kube-controller-manager", controlPlaneName, controllerManagerFlags(c.layout)...),
		c.kubernetesDaemon("kube-scheduler", "kube-scheduler", controlPlaneName, schedulerFlags(c.layout)...),
	} {
		if err := c.layout.startDaemon(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// Client returns a client with all rights; errdefs.ErrUnavailable when the
// cluster is not running.
func (c *Cluster) Client() (kubernetes.Interface, error) {
	if err := c.layout.checkConnected(); err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 100, 200
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return client, nil
}

func (c *Cluster) waitAPIServer(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	return c.wait(ctx, "API server", func(ctx context.Context) (bool, error) {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err == nil, err
	})
}

// wait polls until done returns true. An error of done is only reported when
// the time is over, or a daemon has died meanwhile.
func (c *Cluster) wait(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	last := errors.New("no answer yet")
	err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
		ok, err := done(ctx)
		if ok {
			return true, nil
		}
		if err != nil {
			last = err
		}
		if dead := c.deadDaemons(); len(dead) > 0 {
			return false, fmt.Errorf("%v ended", dead)
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("wait for %s, logs in %s: %w", what, c.layout.path("logs"), errors.Join(err, last))
	}
	return nil
}
