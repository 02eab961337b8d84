# SPDX-License-Identifier: Apache-2.0
# Perl: a hash that grows, and a child that squares numbers through two pipes.
use strict;
use warnings;
use IPC::Open2;
use Time::HiRes qw(sleep);

sub report {
	my ($text) = @_;
	open(my $file, '>>', 'steps') or die "steps: $!";
	syswrite($file, "$text\n");
	close($file);
}

my $child = open2(my $from, my $to, $^X, '-e', '$| = 1; while (<STDIN>) { print $_ * $_, "\n"; }');
my %seen;
my $i = 0;
while (!-e 'stop') {
	$i++;
	print $to "$i\n";
	my $answer = <$from>;
	report("bad square of $i: $answer") unless $answer == $i * $i;
	$seen{"key $i"} = $answer;
	my $j = 1 + int(rand($i));
	report("bad value of $j") unless $seen{"key $j"} == $j * $j;
	report("loop $i");
	sleep(0.005);
}
for my $j (1 .. $i) {
	report("bad value of $j at the end") unless $seen{"key $j"} == $j * $j;
}
close($to);
waitpid($child, 0);
report("bad status $?") if $?;
report('done');
