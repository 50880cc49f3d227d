package devcluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// certificateLife outlives any development cluster.
const certificateLife = 365 * 24 * time.Hour

// identity is a certificate to issue. Kubernetes takes the user name from
// the common name and the groups from the organisations.
type identity struct {
	file   string // below pki: file.crt and file.key
	user   string
	groups []string
	hosts  []string // names and addresses; none for a client
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// identities lists what the cluster CA signs.
func identities(nodes []Node) []identity {
	const masters = "system:masters"
	list := []identity{
		{file: "apiserver", user: "kube-apiserver", hosts: []string{
			ControlPlaneIP, apiServiceIP, "127.0.0.1", "localhost", "kubernetes", "kubernetes.default",
			"kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}},
		{file: "apiserver-kubelet-client", user: "kube-apiserver-kubelet-client", groups: []string{masters}},
		{file: "admin", user: "admin", groups: []string{masters}},
		{file: "controller-manager", user: "system:kube-controller-manager"},
		{file: "scheduler", user: "system:kube-scheduler"},
		{file: "kube-proxy", user: "system:kube-proxy"},
	}
	for _, node := range nodes {
		list = append(list,
			identity{file: node.Name, user: "system:node:" + node.Name, groups: []string{"system:nodes"}},
			identity{file: node.Name + "-serving", user: "system:node:" + node.Name, groups: []string{"system:nodes"},
				hosts: []string{node.Name, node.IP.String()}})
	}
	return list
}

// createPKI writes the keys, certificates and kubeconfigs of a new cluster.
func (c *Cluster) createPKI() error {
	ca, err := c.layout.newAuthority("ca", "juicefs-devcluster")
	if err != nil {
		return err
	}
	for _, id := range identities(c.state.Nodes) {
		if err := c.layout.issue(ca, id); err != nil {
			return err
		}
	}
	frontProxy, err := c.layout.newAuthority("front-proxy-ca", "juicefs-devcluster-front-proxy")
	if err != nil {
		return err
	}
	if err := c.layout.issue(frontProxy, identity{file: "front-proxy-client", user: "front-proxy-client"}); err != nil {
		return err
	}
	if err := c.layout.createServiceAccountKey(); err != nil {
		return err
	}
	return c.layout.writeKubeconfigs(c.state.Nodes)
}

func (l layout) newAuthority(file, name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key of %s: %w", file, err)
	}
	template, err := certificateTemplate(pkix.Name{CommonName: name})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", file, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", file, err)
	}
	return &authority{cert: cert, key: key}, l.writePair(file, der, key)
}

func (l layout) issue(ca *authority, id identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generate key of %s: %w", id.file, err)
	}
	template, err := certificateTemplate(pkix.Name{CommonName: id.user, Organization: id.groups})
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(id.hosts) > 0 {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, host := range id.hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return fmt.Errorf("sign %s: %w", id.file, err)
	}
	return l.writePair(id.file, der, key)
}

func certificateTemplate(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-time.Hour), // clocks that step back
		NotAfter:     now.Add(certificateLife),
	}, nil
}

// createServiceAccountKey makes the key pair that signs and checks service
// account tokens.
func (l layout) createServiceAccountKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generate service account key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encode service account key: %w", err)
	}
	if err := l.writePEM("service-account.pub", "PUBLIC KEY", der); err != nil {
		return err
	}
	return l.writeKey("service-account.key", key)
}

func (l layout) writePair(file string, cert []byte, key *ecdsa.PrivateKey) error {
	if err := l.writePEM(file+".crt", "CERTIFICATE", cert); err != nil {
		return err
	}
	return l.writeKey(file+".key", key)
}

func (l layout) writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode %s: %w", file, err)
	}
	return l.writePEM(file, "EC PRIVATE KEY", der)
}

func (l layout) writePEM(file, kind string, der []byte) error {
	data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(l.pki(file), data, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
